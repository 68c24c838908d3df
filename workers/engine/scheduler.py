"""What the next step does: plain counts in, plain counts out, so that a plan can be tested, simulated and sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What one step may take: decoder tokens, and pictures through the vision encoder.

    Prompts and frames are sure of a `floor` of tokens however many answers run, so that no answer stops the video.
    """

    tokens: int
    pictures: int
    floor: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text of so many tokens to be prefilled: `whole` in one step, or in pieces over several."""

    tokens: int
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Upcoming:
    """A queued frame. `due`: nothing of its session stands before it, so it may be prefilled in this step."""

    tokens: int
    deadline: float
    encoded: bool
    due: bool


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step besides a token for every running answer.

    `prompts`: how many tokens of each prompt, 0 for none; `encode` and `frames`: places in the list of frames.
    """

    prompts: tuple[int, ...]
    encode: tuple[int, ...]
    frames: tuple[int, ...]


def plan(limits: StepLimits, answers: int, prompts: Sequence[Prompt], frames: Sequence[Upcoming]) -> StepPlan:
    """Running answers first, then prompts in their order, then frames by deadline, whole.

    However little is left, the first prompt gets on and the first frame is taken.
    """
    room = max(limits.tokens - answers, limits.floor)
    pieces = []
    for prompt in prompts:
        taken = prompt.tokens if prompt.whole and room > 0 else min(prompt.tokens, max(room, 0))
        pieces.append(taken)
        room -= taken
    encode, prefill = _frames(limits, room, frames)
    return StepPlan(tuple(pieces), encode, prefill)


def _frames(limits: StepLimits, room: int, frames: Sequence[Upcoming]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Pictures to encode and frames to prefill; a frame that is not encoded needs a place among the pictures."""
    encode: list[int] = []
    prefill: list[int] = []
    for place in sorted(range(len(frames)), key=lambda place: frames[place].deadline):
        frame = frames[place]
        if not frame.encoded:
            if len(encode) == limits.pictures:
                continue
            encode.append(place)
        if frame.due and (frame.tokens <= room or not prefill):
            prefill.append(place)
            room -= frame.tokens
    return tuple(encode), tuple(prefill)
