"""What steps do, as somebody beside the engine can see it: for recording them, and for holding the books to account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from workers.engine.batch import Work
from workers.engine.sampler import Drawn, Sampler
from workers.engine.session import Session
from workers.memory import trunk as memory
from workers.memory.compaction import Gathering
from workers.memory.pool import IntegrityError
from workers.memory.trunk import Trunk


class Watch(memory.Watch, Protocol):
    """Is told of each pass, of tokens that are drawn after it, and of each compaction, in the order in which they come.

    What it is given belongs to the engine: logits last until the next pass.
    """

    def passed(self, works: Sequence[Work], logits: Tensor) -> None: ...

    def drawing(self, samplers: Sequence[Sampler]) -> None: ...

    def drew(self, drawn: Drawn) -> None: ...


class Unmoved:
    """A watch that sees everything and does nothing about it."""

    def gathered(self, jobs: Sequence[Gathering], told: Sequence[Tensor]) -> None: ...

    def compacted(self, trunks: Sequence[Trunk]) -> None: ...

    def passed(self, works: Sequence[Work], logits: Tensor) -> None: ...

    def drawing(self, samplers: Sequence[Sampler]) -> None: ...

    def drew(self, drawn: Drawn) -> None: ...


class Auditor(Unmoved):
    """Holds the pool's books against what sessions have, at every compaction.

    IntegrityError unless each page has one owner, is free or held as often as a session's blocks say, and holds the
    tokens that they say; and unless the session stays within its share. `compactions` counts the audits.
    """

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self._sessions = sessions
        self.compactions = 0

    def compacted(self, trunks: Sequence[Trunk]) -> None:
        self.compactions += 1
        trunks[0].share.pool.check_integrity()
        owners = {id(session.trunk): session for session in self._sessions.values()}
        for trunk in trunks:
            if trunk.share.held > trunk.share.size:
                raise IntegrityError("a session holds more pages than its share has")
            owners[id(trunk)].check_integrity()
