"""A session's frames on their way to its trunk, and what each of them brings that the trunk has not seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from workers.engine.messages import PushFrame
from workers.perception.changes import ChangeFilter, Look, Patches, Reference, Sight, look
from workers.perception.glimpses import Change
from workers.perception.vision import Features, Picture

_NEWEST = 0.1  # what the newest frame counts of what frames take of late


@dataclass(slots=True)
class Frame:
    """A frame of height x width patches; `features` once it is encoded, `look` and `sight` where redundancy is dropped.
    `share`: how much of it has to be encoded, once that has been told.

    What a frame brings (`sight`) hangs on the frames before it, and is looked at again when one of those is lost.
    """

    command: PushFrame
    height: int
    width: int
    look: Look | None = None
    sight: Sight | None = None
    features: Features | None = None
    share: float | None = None

    @property
    def patches(self) -> Patches | None:
        """The patches to be written, None for all."""
        return None if self.sight is None else self.sight.patches

    @property
    def change(self) -> Change | None:
        """What of it has to be encoded; None: the whole, as nothing of it is dropped."""
        return None if self.sight is None else Change(self.command.session_id, self.sight.patches)

    @property
    def tokens(self) -> int:
        """How many tokens it takes; 0 if it is like the frame before it."""
        return self.height * self.width if self.sight is None else self.sight.tokens


def look_of(command: PushFrame, picture: Picture) -> Look:
    """What a frame looks like: as told or, if nothing was, as its picture shows. ValueError if that cannot be."""
    return Look.told(command.look, command.height, command.width) if command.look else look(picture)


class Shares(NamedTuple):
    """How much of their tokens was written, and of their pictures encoded, of frames of late; newer ones count more."""

    tokens: float = 1.0
    picture: float = 1.0

    def after(self, frame: Frame) -> Shares:
        tokens, picture = frame.tokens / (frame.height * frame.width), frame.share if frame.tokens else 0.0
        return Shares(
            self.tokens + _NEWEST * (tokens - self.tokens),
            self.picture + _NEWEST * ((1.0 if picture is None else picture) - self.picture),
        )


class Incoming:
    """A queue of frames. Whoever takes one says by `written` or `lost` what became of it."""

    def __init__(self, changes: ChangeFilter | None, faded: Callable[[], int]) -> None:
        """`changes`: what tells redundancy; None keeps every patch of every frame. `faded`: up to which time frames in
        the trunk are not counted on any more, -1 for none.
        """
        self._changes, self._faded = changes, faded
        self.shares = Shares()
        self._frames: deque[Frame] = deque()
        self._reference: Reference | None = None

    @property
    def drops(self) -> bool:
        """Whether frames have to come with their look."""
        return self._changes is not None

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)

    @property
    def next(self) -> Frame | None:
        """The oldest frame."""
        return self._frames[0] if self._frames else None

    def push(self, frame: Frame) -> None:
        before = self._frames[-1].sight if self._frames else None
        self._look(frame, self._reference if before is None else before.reference)
        self._frames.append(frame)

    def take(self) -> Frame:
        """Takes the oldest frame. IndexError if there is none."""
        return self._frames.popleft()

    def written(self, frame: Frame) -> None:
        """The trunk has what the frame brought."""
        self.shares = self.shares.after(frame)
        if frame.sight is not None:
            self._reference = frame.sight.reference

    def lost(self) -> None:
        """The frame that was taken is not in the trunk: those behind it have to bring what it would have brought."""
        reference = self._reference
        for frame in self._frames:
            reference = self._look(frame, reference)

    def _look(self, frame: Frame, before: Reference | None) -> Reference | None:
        if self._changes is None or frame.look is None:
            return None
        frame.sight = self._changes.sight(
            frame.look, frame.height, frame.width, before, frame.command.t_ms, self._faded()
        )
        frame.share = None
        if frame.features is not None and not frame.features.tell(frame.patches):
            frame.features = None
        return frame.sight.reference
