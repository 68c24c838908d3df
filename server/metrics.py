"""What the gateway tells Prometheus: seconds and bytes, and no label that grows with the number of sessions."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from protocol.placement import WorkerState

LATENCY_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
CONNECTION_S = (0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0)


class Metrics:
    """One registry for each application, so that several may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._count_requests()
        self._count_media()
        self._count_questions()
        self._count_journal()
        self.workers = self._gauge("workers", "Workers that take sessions.", "model")
        self.capacity_tokens = self._gauge("capacity_tokens", "Tokens that those workers hold room for.", "model")
        self.reserved_tokens = self._gauge(
            "reserved_tokens", "Tokens of that room that sessions have reserved.", "model"
        )
        self.bus_up = self._gauge("bus_up", "Whether the bus answered when last asked.")

    def _count_requests(self) -> None:
        self.http_requests = self._counter("http_requests", "REST requests.", "handler", "method", "status")
        self.http_duration = self._histogram(
            "http_request_duration_seconds", "Time to the last byte of a response.", REQUEST_S, "handler"
        )
        self.websockets = self._counter("websocket_connections", "Live sockets accepted.")
        self.websockets_active = self._gauge("websocket_connections_active", "Live sockets that are open.")
        self.websocket_duration = self._histogram(
            "websocket_connection_duration_seconds", "How long live sockets stayed open.", CONNECTION_S
        )
        self.slow_readers = self._counter("slow_readers", "Clients that did not take what was sent to them in time.")

    def _count_media(self) -> None:
        self.active_streams = self._gauge("active_streams", "Sessions that this gateway feeds.")
        self.frames_received = self._counter("frames_received", "Pictures that clients sent.", "source")
        self.frames_sampled = self._counter("frames_sampled", "Pictures handed to workers.")
        self.frames_dropped = self._counter("frames_dropped", "Pictures lost on the way, by reason.", "reason")
        self.stream_conditions = self._counter(
            "stream_conditions", "Streams found frozen, black, blocky or silent.", "condition"
        )
        self.ingest_lag = self._histogram(
            "ingest_lag_seconds", "From a picture's arrival to its append to the lane.", REQUEST_S
        )
        self.sources = self._gauge("sources", "Sources that this gateway pulls, by their state.", "state")
        self.decoders = self._gauge("decoder_processes", "Decoder processes that are up.")
        self.decoders_lost = self._counter("decoders_lost", "Decoder processes that crashed or missed a deadline.")

    def _count_questions(self) -> None:
        self.requests_waiting = self._gauge(
            "num_requests_waiting", "Questions accepted here whose answer has not begun."
        )
        self.requests_running = self._gauge("num_requests_running", "Questions accepted here that are being answered.")
        self.request_success = self._counter("request_success", "Questions that ended.", "finished_reason")
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "From a question's acceptance to its first token here.", LATENCY_S
        )
        self.request_latency = self._histogram(
            "e2e_request_latency_seconds", "From a question's acceptance to its end here.", LATENCY_S
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of questions.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens of answers.")

    def _count_journal(self) -> None:
        self.journal_records = self._counter("journal_records", "Records written to the journal.")
        self.journal_bytes = self._counter("journal_bytes", "Bytes written to the journal.")
        self.journal_dropped = self._counter("journal_dropped", "Records that were not kept, by reason.", "reason")
        self.journal_queue = self._gauge("journal_queue_bytes", "Bytes that wait to be written to the journal.")
        self.journal_sessions = self._gauge("journal_sessions", "Sessions of which something is stored.")
        self.journal_held = self._gauge(
            "journal_held_bytes", "Bytes of the journal on disk, of all gateways that share it."
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"longlook_{name}_total", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"longlook_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"longlook_{name}", text, labels, buckets=buckets, registry=self.registry)

    def report_workers(self, workers: Iterable[WorkerState]) -> None:
        """The workers as last seen, by model. A model that no worker serves any more is left out."""
        for gauge in (self.workers, self.capacity_tokens, self.reserved_tokens):
            gauge.clear()
        for worker in workers:
            if not worker.card.draining:
                model = worker.card.model.name
                self.workers.labels(model).inc()
                self.capacity_tokens.labels(model).inc(worker.card.capacity_tokens)
                self.reserved_tokens.labels(model).inc(worker.reserved_tokens)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
