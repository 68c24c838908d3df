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
        r = self.registry
        self.http_requests = Counter(
            "longlook_http_requests_total", "REST requests.", ("handler", "method", "status"), registry=r
        )
        self.http_duration = Histogram(
            "longlook_http_request_duration_seconds",
            "Time to the last byte of a response.",
            ("handler",),
            buckets=REQUEST_S,
            registry=r,
        )
        self.websockets_active = Gauge(
            "longlook_websocket_connections_active", "Live sockets that are open.", registry=r
        )
        self.websockets = Counter("longlook_websocket_connections_total", "Live sockets accepted.", registry=r)
        self.websocket_duration = Histogram(
            "longlook_websocket_connection_duration_seconds",
            "How long live sockets stayed open.",
            buckets=CONNECTION_S,
            registry=r,
        )
        self.active_streams = Gauge("longlook_active_streams", "Sessions that this gateway feeds.", registry=r)
        self.frames_received = Counter(
            "longlook_frames_received_total", "Pictures that clients sent.", ("source",), registry=r
        )
        self.frames_sampled = Counter("longlook_frames_sampled_total", "Pictures handed to workers.", registry=r)
        self.frames_dropped = Counter(
            "longlook_frames_dropped_total", "Pictures lost on the way, by reason.", ("reason",), registry=r
        )
        self.ingest_lag = Histogram(
            "longlook_ingest_lag_seconds",
            "From a picture's arrival to its append to the lane.",
            buckets=REQUEST_S,
            registry=r,
        )
        self.decoders = Gauge("longlook_decoder_processes", "Decoder processes that are up.", registry=r)
        self.decoders_lost = Counter(
            "longlook_decoders_lost_total", "Decoder processes that crashed or missed a deadline.", registry=r
        )
        self.requests_waiting = Gauge(
            "longlook_num_requests_waiting", "Questions accepted here whose answer has not begun.", registry=r
        )
        self.requests_running = Gauge(
            "longlook_num_requests_running", "Questions accepted here whose answer is under way.", registry=r
        )
        self.request_success = Counter(
            "longlook_request_success_total", "Questions that ended.", ("finished_reason",), registry=r
        )
        self.time_to_first_token = Histogram(
            "longlook_time_to_first_token_seconds",
            "From a question's acceptance to its first token here.",
            buckets=LATENCY_S,
            registry=r,
        )
        self.request_latency = Histogram(
            "longlook_e2e_request_latency_seconds",
            "From a question's acceptance to its end here.",
            buckets=LATENCY_S,
            registry=r,
        )
        self.prompt_tokens = Counter("longlook_prompt_tokens_total", "Tokens of questions.", registry=r)
        self.generation_tokens = Counter("longlook_generation_tokens_total", "Tokens of answers.", registry=r)
        self.slow_readers = Counter(
            "longlook_slow_readers_total", "Clients that did not take what was sent to them in time.", registry=r
        )
        self.workers = Gauge("longlook_workers", "Workers that take sessions.", ("model",), registry=r)
        self.capacity_tokens = Gauge(
            "longlook_capacity_tokens", "Tokens that those workers hold room for.", ("model",), registry=r
        )
        self.reserved_tokens = Gauge(
            "longlook_reserved_tokens", "Tokens of that room that sessions have reserved.", ("model",), registry=r
        )
        self.bus_up = Gauge("longlook_bus_up", "Whether the bus answered when last asked.", registry=r)

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
