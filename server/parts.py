"""What the rest of a gateway is built of."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.bus import Bus
from server.background import Background
from server.journal.journal import Journal
from server.media.decoders import Nursery
from server.metrics import Metrics
from server.placement import Board
from server.questions import Questions
from server.relay import Relay
from server.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One of each for each gateway; none of them knows of sessions' feeds, sources or routes."""

    gateway_id: str
    settings: Settings
    bus: Bus
    metrics: Metrics
    background: Background
    board: Board
    nursery: Nursery
    relay: Relay
    questions: Questions
    journal: Journal
