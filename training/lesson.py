"""One training example: a stretch of a stream with questions anywhere, packed so that one pass answers them all.

The sequence is the header, the trunk (frames, and questions remembered in it), then one branch after another. A branch
sees the header, the trunk's window at the moment it was asked, and itself; `training.masks` says the same as a mask.
"""

from dataclasses import dataclass, fields, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from training.world.cast import Cast, cast
from training.world.director import direct
from training.world.labels import LANES, Labels, label
from training.world.moment import Moment
from training.world.questions import KINDS, Kind, Question, ask
from training.world.script import Floats, Script
from workers.models.chat import Chat, Span
from workers.models.clock import Clock
from workers.models.tokenizer import Tokenizer

LASTING = 1 << 20  # later than any picture
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Syllabus:
    """What the examples of a stage are like.

    `frames` pictures each, at most `questions` asked, `length` tokens in all; `steps` are the seconds between pictures
    to choose from, `windows` the least and most pictures that the trunk keeps; `weights` how often each kind is tried.
    `remembered`, `aged` and `thin` are the shares of examples that remember questions in the trunk, that begin late,
    and that leave out of the trunk what did not change. `pace` is the least time between changes, in pictures.
    """

    frames: int
    questions: int
    length: int
    steps: tuple[float, ...]
    windows: tuple[int, int]
    weights: tuple[tuple[Kind, float], ...]
    remembered: float = 0.3
    aged: float = 0.5
    thin: float = 0.0
    pace: float = 2.4


@dataclass(frozen=True, slots=True)
class Lesson:
    """Arrays of one example; L tokens, F pictures, 64 patches a picture.

    `tokens` [L] and `positions` [3, L]; `tick` [L] the picture with which a token came, `until` [L] the first whose
    company no longer sees it (LASTING if no window drops it); `branch` [L] 0 for header and trunk, 1 and up for
    branches, -1 for padding; `fork` [L] how many of the sequence's first tokens it may see of the trunk; `target` [L]
    the token that must follow, IGNORED elsewhere; `kind` [L] the number of the question's kind where there is a target;
    `pads` [F * 64] where the pictures' tokens stand; `window` in pictures; `thin` if patches that did not change are
    left out.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    tick: NDArray[np.int32]
    until: NDArray[np.int32]
    branch: NDArray[np.int32]
    fork: NDArray[np.int32]
    target: NDArray[np.int64]
    kind: NDArray[np.int8]
    pads: NDArray[np.int64]
    window: int
    thin: bool
    shown: Cast
    labels: Labels


class Teacher:
    """Makes examples from seeds; the same seed and syllabus always give the same one."""

    def __init__(self, tokenizer: Tokenizer, rate: float) -> None:
        self._tokenizer = tokenizer
        self._chat = Chat(tokenizer, rate)

    def lesson(self, seed: int, syllabus: Syllabus) -> Lesson:
        rng = Random(seed)
        step = rng.choice(syllabus.steps)
        window = rng.randint(*syllabus.windows)
        seconds = syllabus.frames * step + 1.0
        cut = (rng.uniform(8, seconds - 4),) if seconds > 16 and rng.random() < 0.25 else ()
        script = direct(rng.getrandbits(60), seconds, syllabus.pace * min(2.0, max(1.0, step)), cut)
        times: Floats = np.arange(syllabus.frames, dtype=np.float64) * step
        questions = _questions(script, times, step, window, syllabus, rng)
        kept = 0 if rng.random() > syllabus.remembered else rng.randint(1, 4)
        remembered, branched = questions[:kept], questions[kept:]
        packer = _Packer(self._chat, self._tokenizer, syllabus.length, times, window, rng, sticky=rng.random() < 0.5)
        packer.trunk(script, remembered, aged=rng.random() < syllabus.aged)
        for question in branched:
            packer.ask(question)
        shown = cast(script, times)
        return packer.lesson(shown, label(script, shown, times, step), thin=rng.random() < syllabus.thin)


def _questions(
    script: Script, times: Floats, step: float, window: int, syllabus: Syllabus, rng: Random
) -> list[Question]:
    """Questions at random moments, each kind tried by its weight at up to four of them."""
    late = rng.choices(range(len(times) // 6, len(times)), k=max(4, syllabus.questions // 2))
    near = min(step, 1.0)
    moments = []
    for index in late:
        since = times[max(0, index - window + 1)]
        moments.append(Moment(script, float(times[index] + rng.uniform(0, 0.9 * near)), float(since), near))
    kinds, weights = zip(*syllabus.weights, strict=True)
    asked: list[Question] = []
    for kind in rng.choices(kinds, weights, k=2 * syllabus.questions):
        found = (ask(kind, moment, rng) for moment in rng.sample(moments, 4))
        question = next((question for question in found if question is not None), None)
        if question is not None and len(asked) < syllabus.questions:
            asked.append(question)
    return asked


class _Packer:
    """The sequence under construction."""

    def __init__(
        self, chat: Chat, tokenizer: Tokenizer, length: int, times: Floats, window: int, rng: Random, *, sticky: bool
    ) -> None:
        self._chat, self._tokenizer, self._times, self._rng = chat, tokenizer, times, rng
        self._window, self._sticky = window, sticky
        self._tokens = np.full(length, tokenizer.special.endoftext, dtype=np.int64)
        self._positions = np.zeros((3, length), dtype=np.int64)
        self._tick = np.zeros(length, dtype=np.int32)
        self._until = np.full(length, LASTING, dtype=np.int32)
        self._branch = np.full(length, -1, dtype=np.int32)
        self._fork = np.zeros(length, dtype=np.int32)
        self._target = np.full(length, IGNORED, dtype=np.int64)
        self._kind = np.full(length, -1, dtype=np.int8)
        self._pads: list[NDArray[np.int64]] = []
        self._filled = 0
        self._branches = 0
        self._ends: list[tuple[int, Clock]] = []  # trunk length and clock after each picture

    def trunk(self, script: Script, remembered: list[Question], *, aged: bool) -> None:
        """Header and pictures, with `remembered` questions and answers where they were asked."""
        rng = self._rng
        header = self._chat.header()
        self._put(header, 0, 0, lasting=True)
        gap = int(10 ** rng.uniform(0, 4.6)) if aged else 0
        clock = replace(header.clock, next=header.clock.next + gap)
        cuts = [since for since, _ in script.grounds[1:] if rng.random() < 0.5]
        pending = sorted(remembered, key=lambda question: question.time)
        for index, time in enumerate(self._times):
            last = self._times[index - 1] if index else 0.0
            new_scene = any(last < cut <= time for cut in cuts) or rng.random() < 0.01
            frame = self._chat.frame(clock, round(time * 1000), LANES, LANES, scene_change=new_scene)
            text = len(frame) - LANES * LANES
            start = self._put(_part(frame, 0, text), index, 0, lasting=self._sticky) + text
            self._put(_part(frame, text, len(frame)), index, 0)
            self._pads.append(np.arange(start, start + LANES * LANES))
            clock = frame.clock
            self._ends.append((self._filled, clock))
            until = self._times[index + 1] if index + 1 < len(self._times) else np.inf
            while pending and pending[0].time < until:
                clock = self._remember(clock, pending.pop(0), index)

    def ask(self, question: Question) -> None:
        """A branch; left out if there is no room for it."""
        index = int(np.searchsorted(self._times, question.time, side="right")) - 1
        fork, clock = self._ends[index]
        answer = self._answer(question)
        asked = self._chat.question(clock, question.text)
        spoken = self._chat.answer(asked.clock, answer)
        if self._filled + len(asked) + len(spoken) > len(self._tokens):
            return
        self._branches += 1
        self._put(asked, index, self._branches, fork)
        start = self._put(spoken, index, self._branches, fork)
        self._teach(start, answer, question.kind)

    def lesson(self, shown: Cast, labels: Labels, *, thin: bool) -> Lesson:
        return Lesson(
            self._tokens, self._positions, self._tick, self._until, self._branch, self._fork, self._target, self._kind,
            np.concatenate(self._pads), self._window, thin, shown, labels,
        )  # fmt: skip

    def _remember(self, clock: Clock, question: Question, index: int) -> Clock:
        answer = self._answer(question)
        asked = self._chat.question(clock, question.text)
        whole = self._chat.remembered(clock, question.text, answer)
        start = self._put(whole, index, 0, lasting=self._sticky) + len(asked)
        self._teach(start, answer, question.kind)
        return whole.clock

    def _answer(self, question: Question) -> list[int]:
        return [*self._tokenizer.encode(question.answer), self._tokenizer.special.im_end]

    def _teach(self, start: int, answer: list[int], kind: Kind) -> None:
        self._target[start - 1 : start - 1 + len(answer)] = answer
        self._kind[start - 1 : start - 1 + len(answer)] = KINDS.index(kind)

    def _put(self, span: Span, tick: int, branch: int, fork: int | None = None, *, lasting: bool = False) -> int:
        start, end = self._filled, self._filled + len(span)
        if end > len(self._tokens):
            raise ValueError(f"the trunk does not fit into {len(self._tokens)} tokens")
        self._tokens[start:end] = span.tokens
        self._positions[:, start:end] = span.positions
        self._tick[start:end], self._branch[start:end] = tick, branch
        self._until[start:end] = LASTING if lasting else tick + self._window
        self._fork[start:end] = len(self._tokens) if fork is None else fork
        self._filled = end
        return start


def _part(span: Span, start: int, end: int) -> Span:
    return Span(span.tokens[start:end], span.positions[:, start:end], span.clock)


def stacked(lessons: list[Lesson]) -> dict[str, NDArray[np.generic]]:
    """The arrays of several examples, stacked by name; pictures and labels one after another, [B * F, ...]."""
    plain = [field.name for field in fields(Lesson) if field.name not in ("shown", "labels")]
    batch: dict[str, NDArray[np.generic]] = {name: np.stack([getattr(x, name) for x in lessons]) for name in plain}
    for part, kind in (("shown", Cast), ("labels", Labels)):
        for field in fields(kind):
            batch[field.name] = np.concatenate([getattr(getattr(x, part), field.name) for x in lessons])
    return batch
