"""The parts of a running gateway, as the routes see them, and what goes on beside the requests."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

from protocol.bus import Bus
from protocol.errors import BusUnavailable, LogLost, LonglookError, NotFound
from server.auth import Keyring
from server.background import Background
from server.condition import Condition, watch
from server.feeds import Feeds
from server.journal.journal import DiskJournal, Journal, NoJournal
from server.limits import Allowance
from server.media.decoders import Nursery
from server.metrics import Metrics
from server.parts import Parts
from server.placement import Board
from server.questions import Questions
from server.relay import Relay
from server.revival import Revival
from server.sessions import Sessions
from server.settings import Settings
from server.sources.addresses import Dialer, Policy
from server.sources.pulling import Pulling
from server.sources.wanted import Wanted

logger = logging.getLogger(__name__)

BEAT_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Gateway(Parts):
    """One for each application: its parts, and what is built of them."""

    keyring: Keyring
    condition: Condition
    feeds: Feeds
    sessions: Sessions
    revival: Revival
    pulling: Pulling
    wanted: Wanted
    requests: Allowance
    sockets: Allowance
    uploads: Allowance
    media: Allowance
    exports: Allowance

    @classmethod
    def of(cls, parts: Parts, keyring: Keyring) -> Self:
        """Nothing runs yet."""
        feeds = Feeds(parts)
        revival = Revival(parts, feeds)
        sessions = Sessions(parts, feeds, revival)
        dialer = Dialer(Policy.of(parts.settings.sources.allow), parts.settings.sources.connect_s)
        pulling = Pulling(parts, sessions, dialer)
        return cls(
            **vars(parts),
            keyring=keyring,
            condition=Condition(),
            feeds=feeds,
            sessions=sessions,
            revival=revival,
            pulling=pulling,
            wanted=Wanted(parts, sessions, pulling, dialer),
            requests=Allowance("requests"),
            sockets=Allowance("connections"),
            uploads=Allowance("uploads"),
            media=Allowance("media bytes"),
            exports=Allowance("clips"),
        )


@asynccontextmanager
async def running_gateway(settings: Settings, bus: Bus, keyring: Keyring, metrics: Metrics) -> AsyncIterator[Gateway]:
    """A gateway whose relay and beat run while the context is open. Raises OSError, ValueError (the journal's key)."""
    async with Nursery(unsafe=settings.unsafe_decoder) as nursery, asyncio.TaskGroup() as tasks:
        if nursery.lacking:
            logger.warning("decoders cannot be confined here: %s", nursery.lacking)
        gateway_id = f"g_{secrets.token_hex(6)}"
        relay = Relay(bus, gateway_id)
        parts = Parts(
            gateway_id=gateway_id,
            settings=settings,
            bus=bus,
            metrics=metrics,
            background=Background(tasks),
            board=Board(bus),
            nursery=nursery,
            relay=relay,
            questions=Questions(bus, metrics, settings.limits.unowned_s),
            journal=_journal(settings, metrics, relay),
        )
        gateway = Gateway.of(parts, keyring)
        _start(gateway)
        try:
            yield gateway
        finally:
            await gateway.pulling.aclose()
            with suppress(LonglookError):
                await gateway.feeds.publish()  # the next gateway goes on with these clocks
            gateway.background.cancel()


def _start(gateway: Gateway) -> None:
    """All that runs beside the requests."""
    for work in (
        gateway.relay.run(gateway.sessions.observe),
        gateway.pulling.run(),
        gateway.journal.run(),
        gateway.journal.keep(lambda session_id: _alive(gateway.bus, session_id)),
        watch(gateway.bus, gateway.condition, gateway.metrics, gateway.feeds.sessions),
        _beat(gateway),
    ):
        gateway.background.start(work)


def _journal(settings: Settings, metrics: Metrics, relay: Relay) -> Journal:
    """The journal that the settings ask for. Raises OSError, ValueError (the key)."""
    folder = settings.journal.dir
    return NoJournal() if folder is None else DiskJournal(settings.journal, folder, metrics, relay.say)


async def _alive(bus: Bus, session_id: str) -> bool:
    """Whether a session may still be written to; where the bus does not answer, it may."""
    try:
        return (await bus.sessions.get(session_id)).state != "closed"
    except NotFound:
        return False
    except BusUnavailable:
        return True


async def _beat(gateway: Gateway) -> None:
    """Once a second: is the bus's data still ours, who are the workers, how are the streams, what does nobody answer.

    After an outage the questions that nobody has begun to answer are appended again: where they are still there, that
    changes nothing.
    """
    away = False
    while True:
        try:
            await gateway.bus.check()
            if away:
                await gateway.questions.append_again()
                away = False
            await gateway.board.refresh()
            gateway.metrics.report_workers(gateway.board.workers)
            await gateway.feeds.publish()
            await gateway.questions.end_unowned()
            gateway.metrics.decoders.set(len(gateway.nursery))
        except LogLost as lost:
            logger.warning("what the bus held is lost: %s", lost.message)
            gateway.revival.begin()
            with suppress(LonglookError):
                await gateway.pulling.restore()
            away = False
        except LonglookError as error:
            away = True
            logger.debug("the beat is left out: %s", error.message)
        await asyncio.sleep(BEAT_S)
