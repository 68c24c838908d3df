"""A source whose camera is a script: what ends a connection, what comes after, and what is told of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from protocol.messages import Notice
from protocol.sources import SourceSpec
from server.media.clock import SessionClock
from server.media.ingest import Ingest
from server.media.tracks import Chunk
from server.settings import Limits, SourceSettings
from server.sources import source as module
from server.sources.addresses import Dialer, Unreachable
from server.sources.messages import Opened, Pull, Refused, Report, TrackInfo, Unit
from server.sources.source import Session, Source

pytestmark = pytest.mark.unit

VIDEO = Opened(tracks=[TrackInfo(sort="video", codec="jpeg")])
PATIENT = SourceSettings(frozen_s=60, dead_s=120, slow_s=60, late_s=120, retry_s=0.001, retry_most_s=0.002)


def unit(media_s: float = 0.0) -> Unit:
    return Unit(sort="video", media_us=round(media_s * 1e6), data=b"")


class Stage:
    """Each connection brings the next script, then silence. The last script done is the end of the play."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *scripts: Iterable[Report | Exception]) -> None:
        self.clock = SessionClock(lossless=False)
        self.told: list[str] = []
        self.orders: list[Pull] = []
        self.over = asyncio.Event()
        self._scripts = [list(script) for script in scripts]
        monkeypatch.setattr(module, "running_puller", self._puller)

    async def played(self, settings: SourceSettings) -> list[str]:
        """The states that the source came through."""

        async def ingest() -> Ingest:
            return cast(Ingest, self)

        async def play(*_: object) -> None:
            raise AssertionError

        session = Session(id="s", hears=False, fps=1.0, ingest=ingest, play=play, say=self._say, replaced=lambda: None)
        spec = SourceSpec(name="door", url="rtsp://camera.example/one", track=1000, created_at=0.0)
        source = Source(spec, session, cast(Dialer, self), settings, Limits(), sandbox=False)
        running, over = asyncio.create_task(source.run()), asyncio.create_task(self.over.wait())
        async with asyncio.timeout(20):
            await asyncio.wait([running, over], return_when=asyncio.FIRST_COMPLETED)
        for task in (running, over):
            task.cancel()
        await asyncio.gather(running, over, return_exceptions=True)
        return self.told

    # --- what a source asks of others ---------------------------------------------------------------------------------

    async def dial(self, host: str, port: int) -> socket.socket:
        if self._scripts and self._scripts[0] and isinstance(self._scripts[0][0], Unreachable):
            raise cast(Unreachable, self._scripts.pop(0)[0])
        return cast(socket.socket, None)

    async def pull(self, listener: object, chunk: Chunk, t_ms: int) -> None:
        return

    def _say(self, notice: Notice) -> None:
        if notice.code == "source":
            self.told.append(str(notice.data["state"]))

    @asynccontextmanager
    async def _puller(self, connection: object, order: Pull) -> AsyncIterator[Any]:
        self.orders.append(order)
        self._script = self._scripts.pop(0)
        yield self

    async def next(self) -> Report:
        if self._script:
            return cast(Report, self._script.pop(0))
        if not self._scripts:
            self.over.set()
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_source_that_stays_frozen_is_connected_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [VIDEO, unit()], [VIDEO, unit()])
    impatient = PATIENT.model_copy(update={"frozen_s": 0.1, "dead_s": 1.5})
    assert (await stage.played(impatient))[:5] == ["live", "frozen", "waiting", "live"]
    assert len(stage.orders) == 2


async def test_a_source_that_never_brings_a_picture_is_connected_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [VIDEO], [VIDEO, unit()])
    assert (await stage.played(PATIENT.model_copy(update={"dead_s": 0.1})))[:2] == ["waiting", "live"]


async def test_a_source_whose_media_come_late_is_slow_until_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [VIDEO, unit(2.0), unit(0.5), unit(2.0)])
    assert await stage.played(PATIENT.model_copy(update={"slow_s": 1.2})) == ["live", "slow", "live"]


async def test_media_that_come_far_too_late_are_not_caught_up_with(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [VIDEO, unit(1.0), unit(0.9)], [VIDEO, unit()])
    settings = PATIENT.model_copy(update={"slow_s": 0.01, "late_s": 0.05})
    assert (await stage.played(settings))[:3] == ["live", "waiting", "live"]


async def test_a_host_that_is_away_is_asked_again_and_one_that_refuses_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, [Unreachable("away")], [VIDEO, unit(), Refused(reason="no such path", lasting=True)])
    assert await stage.played(PATIENT) == ["waiting", "live", "failed"]


@pytest.mark.parametrize(("steady_s", "calls"), [(0.0, ["reset", "next"]), (60.0, ["next"])])
async def test_a_source_that_was_good_for_a_while_is_tried_again_soon(
    monkeypatch: pytest.MonkeyPatch, steady_s: float, calls: list[str]
) -> None:
    made: list[str] = []

    class Waits:
        def __init__(self, *_: float) -> None:
            pass

        def reset(self) -> None:
            made.append("reset")

        def next(self) -> float:
            made.append("next")
            return 0.0

    monkeypatch.setattr(module, "STEADY_S", steady_s)
    monkeypatch.setattr(module, "Backoff", Waits)
    stage = Stage(monkeypatch, [VIDEO, unit(), Refused(reason="gone", lasting=False)], [VIDEO, unit()])
    await stage.played(PATIENT)
    assert made == calls
