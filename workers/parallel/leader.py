"""Rank 0: what the engine takes for one device are several. It orders what the others do, and does its own share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor

from workers.core import Part, Slots, Team, Turn
from workers.engine.batch import Work
from workers.engine.device import Device, MakeAttention, Pixels
from workers.engine.graphs import Graphs
from workers.engine.messages import PushFrame
from workers.engine.settings import EngineSettings
from workers.memory.compaction import Gathering
from workers.memory.policies import rank_name
from workers.memory.pool import PagePool
from workers.models.checkpoint import Checkpoint
from workers.parallel.links import Links
from workers.parallel.names import Names
from workers.parallel.orders import (
    NOTHING,
    Array,
    Begin,
    Clear,
    Encode,
    Gather,
    Job,
    Keys,
    Look,
    Pass,
    Row,
    Warm,
)
from workers.parallel.shares import Shares, no_tokens
from workers.perception.glimpses import Change
from workers.perception.vision import Eye, Features

_STREAMS_KEPT = 4_096

MakeLeader = Callable[[Checkpoint, EngineSettings, Pixels, MakeAttention | None], "Leader"]


def leading(team: Team, links: Links) -> MakeLeader:
    """Makes leaders of a team, one after the other: what an engine takes as `make_device`."""

    def make(
        checkpoint: Checkpoint, settings: EngineSettings, pixels: Pixels, make_attention: MakeAttention | None
    ) -> Leader:
        links.send(Begin(settings=settings))
        device = Device(checkpoint, settings, pixels, make_attention, team)
        return Leader(Shares(device, team, no_tokens(checkpoint)), links)

    return make


class Leader:
    """Computes (`engine.device.Computing`) with the devices of all ranks."""

    def __init__(self, shares: Shares, links: Links) -> None:
        self._shares, self._device, self._links = shares, shares.device, links
        self._parts: Names[Part] = Names()
        self._frames: Names[Features] = Names()
        self._homes: OrderedDict[str, int] = OrderedDict()

    @property
    def pool(self) -> PagePool:
        return self._device.pool

    @property
    def eye(self) -> Eye:
        return self._device.eye

    @property
    def turn(self) -> Turn:
        return self._device.turn

    @property
    def graphs(self) -> Graphs | None:
        return self._device.graphs

    def run(self, works: Sequence[Work]) -> Tensor:
        new: list[Keys] = []
        rows = [self._row(work, new) for work in works]
        self._links.send(Pass(rows=rows, parts=new, gone=self._parts.gone(), faded=self._frames.gone()))
        return self._device.run(works)

    def encode(self, frames: Sequence[PushFrame], changes: Sequence[Change | None] | None = None) -> list[Features]:
        """Deals pictures out to the ranks, those of which only changes are wanted always to the same."""
        changes = changes or [None] * len(frames)
        ranks = self._dealt(changes)
        names = [self._frames.reserve() for _ in frames]
        looks = [_look(*each) for each in zip(frames, changes, ranks, names, strict=True)]
        self._links.send(Encode(pictures=looks))
        mine = [place for place, rank in enumerate(ranks) if rank == 0]
        own = self._device.encode([frames[place] for place in mine], [changes[place] for place in mine])
        tokens = self._shares.exchange(looks, [each.tokens for each in own])
        seen = dict(zip(mine, (each.seen for each in own), strict=True))
        for rank, report in enumerate(self._links.encoded(), start=1):
            theirs = [place for place, its in enumerate(ranks) if its == rank]
            told = (None if each is None else each.array() for each in report.seen)
            seen.update(zip(theirs, told, strict=True))
        features = []
        for place, look in enumerate(looks):
            down, across = self.eye.size(look.height, look.width)
            features.append(Features(tokens[look.name], down, across, seen[place]))
            self._frames.give(features[-1], look.name)
        return features

    def gather(self, jobs: Sequence[Gathering]) -> list[Tensor]:
        self._links.send(Gather(jobs=[_job(job) for job in jobs]))
        return self._shares.gather(jobs)

    def clear(self, slots: Slots) -> None:
        self._links.send(Clear(slots=Array.of(slots)))
        self._device.clear(slots)

    def warm(self) -> None:
        self._links.send(Warm())
        self._device.warm()

    def _row(self, work: Work, new: list[Keys]) -> Row:
        shown = work.shown
        name = NOTHING if shown is None else self._frames.find(shown.frame)
        if name is None:
            raise RuntimeError("a frame is shown that was not encoded by these ranks")
        return Row(
            tokens=Array.of(work.tokens),
            positions=Array.of(work.positions),
            slots=Array.of(work.slots),
            parts=[self._part(part, new) for part in work.parts],
            wanted=work.wanted,
            follows=work.following is not None,
            features=name,
            patches=None if shown is None or shown.patches is None else Array.of(shown.patches),
        )

    def _part(self, part: Part, new: list[Keys]) -> int:
        """A part's name; the others are told of those that are new."""
        name = self._parts.find(part)
        if name is None:
            name = self._parts.reserve()
            self._parts.give(part, name)
            new.append(Keys(name, Array.of(part.slots), part.turn, part.biased))
        return name

    def _dealt(self, changes: Sequence[Change | None]) -> list[int]:
        """A rank for each picture: its stream's own, or the one that has the fewest."""
        size = self._shares.team.size
        load, ranks = [0] * size, []
        for change in changes:
            rank = load.index(min(load))
            if change is not None:
                rank = self._home(change.stream)
            load[rank] += 1
            ranks.append(rank)
        return ranks

    def _home(self, stream: str) -> int:
        """The rank that remembers what stands still in a stream. One forgotten meanwhile is encoded whole, and new."""
        rank = self._homes.pop(stream, None)
        if rank is None:
            rank = min(range(self._shares.team.size), key=list(self._homes.values()).count)
        self._homes[stream] = rank
        if len(self._homes) > _STREAMS_KEPT:
            self._homes.popitem(last=False)
        return rank


def _look(frame: PushFrame, change: Change | None, rank: int, name: int) -> Look:
    patches = None if change is None or change.patches is None else Array.of(change.patches)
    return Look(frame.slot, frame.height, frame.width, rank, name, "" if change is None else change.stream, patches)


def _job(job: Gathering) -> Job:
    return Job(
        Array.of(job.sources),
        Array.of(job.targets),
        Array.of(job.turns),
        Array.of(job.recent),
        Array.of(job.recent_told),
        job.places,
        rank_name(job.rank),
    )
