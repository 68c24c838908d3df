"""The gateway's half of a session's health: what came in, what went to the lanes, what was lost and why."""

from __future__ import annotations

from collections import Counter

from protocol.messages import IngestStats
from server.media.clock import SessionClock
from server.media.jobs import PCM_RATE
from server.media.rates import Rate
from server.metrics import Metrics


class Tally:
    """Counts for one session, and in the gateway's metrics. ``now`` is in Unix seconds.

    Args:
        before: what was counted where the session was fed before.
    """

    def __init__(self, metrics: Metrics, before: IngestStats) -> None:
        self._metrics = metrics
        self._in = Rate()
        self._out = Rate()
        self._last_frame_at = before.last_frame_at
        self._frames_in = before.frames_in
        self._frames_out = before.frames_out
        self._dropped: Counter[str] = Counter(before.frames_dropped)
        self._audio_samples = before.audio_ms * PCM_RATE // 1000

    def came(self, source: str, now: float, count: int = 1) -> None:
        """Pictures came in by ``source`` (socket, rest, file, source)."""
        self._frames_in += count
        self._last_frame_at = now
        self._in.tick(now, count)
        self._metrics.frames_received.labels(source).inc(count)

    def went(self, arrived_at: float, now: float) -> None:
        """A picture is in its lane."""
        self._frames_out += 1
        self._out.tick(now)
        self._metrics.frames_sampled.inc()
        self._metrics.ingest_lag.observe(max(now - arrived_at, 0.0))

    def sound(self, pcm_bytes: int) -> None:
        """16 kHz mono sound is in its lane."""
        self._audio_samples += pcm_bytes // 2

    def dropped(self, reason: str, count: int = 1) -> None:
        if count:
            self._dropped[reason] += count
            self._metrics.frames_dropped.labels(reason).inc(count)

    def condition(self, name: str) -> None:
        """A condition of a stream has begun."""
        self._metrics.stream_conditions.labels(name).inc()

    def decoder_lost(self) -> None:
        self._metrics.decoders_lost.inc()

    def stats(self, now: float, clock: SessionClock) -> IngestStats:
        return IngestStats(
            session_time_ms=clock.newest_ms,
            newest_at=clock.newest_at,
            last_frame_at=self._last_frame_at,
            origin_us=clock.origin_us,
            fps_in=self._in.per_second(now),
            fps_out=self._out.per_second(now),
            frames_in=self._frames_in,
            frames_out=self._frames_out,
            frames_dropped=dict(self._dropped),
            audio_ms=1000 * self._audio_samples // PCM_RATE,
        )
