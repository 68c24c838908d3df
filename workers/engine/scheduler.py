"""What the next step does: plain counts in, plain counts out, so that a plan can be tested, simulated and sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

READING_RATE = 5.0  # tokens a second that a person reads at most (Andes, arXiv:2404.16283, has 4.8)
SLACK_S = 5.0  # a reader with so much unread text notices no pause
PRESSING_S = 0.5  # before its deadline a frame is worth that pause


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What one step may take: decoder tokens, and pictures through the vision encoder.

    Prompts and frames are sure of a `floor` of tokens however many answers run, so that no answer stops the video. Of
    the tokens, a running `answer` takes as many as its time is worth, and so does a `picture` that has to be encoded.
    """

    tokens: int
    pictures: int
    floor: int
    answer: float = 1.0
    picture: float = 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """A running answer of which `sent` tokens went out since `since` (seconds on the clock of the steps)."""

    sent: int
    since: float

    def unread(self, now: float) -> float:
        """Seconds for which its reader has text to read, without another token."""
        return max(0.0, self.sent / READING_RATE - (now - self.since))


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text of so many tokens to be prefilled: `whole` in one step, or in pieces over several."""

    tokens: int
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Upcoming:
    """A queued frame. `due`: nothing of its session stands before it, so it may be prefilled in this step.

    `turn`: when it is its session's turn, as `Turns` has it; inf for a session that can wait for ever. `share`: how
    much of a whole picture has to be encoded.
    """

    tokens: int
    deadline: float
    encoded: bool
    due: bool
    turn: float = 0.0
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step does.

    `answers`: whether each running answer gets its token; `prompts`: how many tokens of each prompt, 0 for none;
    `encode` and `frames`: places in the list of frames.
    """

    answers: tuple[bool, ...]
    prompts: tuple[int, ...]
    encode: tuple[int, ...]
    frames: tuple[int, ...]


def plan(
    limits: StepLimits,
    answers: Sequence[Reading],
    prompts: Sequence[Prompt],
    frames: Sequence[Upcoming],
    now: float = 0.0,
) -> StepPlan:
    """Running answers first, then prompts in their order, then frames, whole: by their sessions' turns, then by
    deadline. By deadline alone a session that sends too much would make everybody's frames late.

    Where not everything fits and a frame would be lost over it, answers whose readers have enough to read wait. However
    little is left, the first prompt gets on and the first frame is taken.
    """
    going = _going(limits, answers, prompts, frames, now)
    room = max(limits.tokens - limits.answer * sum(going), limits.floor)
    pieces = []
    for prompt in prompts:
        taken = prompt.tokens if prompt.whole and room > 0 else min(prompt.tokens, max(int(room), 0))
        pieces.append(taken)
        room -= taken
    encode, prefill = _frames(limits, room, frames)
    return StepPlan(going, tuple(pieces), encode, prefill)


def _going(
    limits: StepLimits, answers: Sequence[Reading], prompts: Sequence[Prompt], frames: Sequence[Upcoming], now: float
) -> tuple[bool, ...]:
    """Which answers get their token: all of them, unless frames that are nearly late do not fit beside them."""
    due = [frame for frame in frames if frame.due]
    wanted = sum(prompt.tokens for prompt in prompts) + sum(_weight(limits, frame) for frame in due)
    pressed = (
        limits.answer * len(answers) + wanted > limits.tokens
        and min((frame.deadline for frame in due), default=math.inf) < now + PRESSING_S
    )
    return tuple(not pressed or reading.unread(now) < SLACK_S for reading in answers)


def _weight(limits: StepLimits, frame: Upcoming) -> float:
    """What a frame takes of a step's tokens, its own and those that encoding it is worth."""
    return frame.tokens * frame.due + limits.picture * frame.share * (not frame.encoded)


def _frames(limits: StepLimits, room: float, frames: Sequence[Upcoming]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Pictures to encode and frames to prefill; a frame that is not encoded needs a place among the pictures."""
    encode: list[int] = []
    prefill: list[int] = []
    looked = 0.0
    for place in sorted(range(len(frames)), key=lambda place: (frames[place].turn, frames[place].deadline)):
        frame = frames[place]
        weight = _weight(limits, frame)
        fits = weight <= room or (frame.due and not prefill)
        if not frame.encoded:
            if looked >= limits.pictures or not (fits or limits.picture * frame.share <= room):
                continue
            encode.append(place)
            looked += frame.share
            room -= limits.picture * frame.share
        if frame.due and fits:
            prefill.append(place)
            room -= frame.tokens
    return tuple(encode), tuple(prefill)
