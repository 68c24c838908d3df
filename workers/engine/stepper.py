"""One step over all sessions: plan, pictures as one batch, then answers, prompts and frames in as few passes as go.

Answers and prompts go through the decoder together with frames: these cost a pass its arithmetic, those its reading of
the weights. Room for the frames is made before that, so that none takes the place of what an answer still sees; where
more would have to go for the frame of a session that speaks, it is written after what is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from workers.engine.answers import Saying
from workers.engine.batch import Following, Work
from workers.engine.branch import Branch
from workers.engine.costs import FILLING, StepCounts
from workers.engine.device import Computing
from workers.engine.fairness import Turns
from workers.engine.incoming import Frame
from workers.engine.pace import Heard, Pace
from workers.engine.sampler import Drawn, Sampler, sample
from workers.engine.scheduler import Prompt, Reading, StepLimits, Upcoming, plan
from workers.engine.session import Session
from workers.engine.timeline import Writing
from workers.engine.watch import Watch
from workers.memory.trunk import shrink

SayWhose = Callable[[Iterable[Session]], None]
Shown = tuple[Session, Frame, Writing]  # a frame under way into its session's trunk


@dataclass(slots=True)
class Counters:
    """What was done since the start; `pairs` are of a new token and a key in memory that it sees.

    Those of single tokens are `keys`; `short` is by how many tokens passes stayed below FILLING.
    """

    steps: int = 0
    passes: int = 0
    tokens: int = 0
    pairs: int = 0
    keys: int = 0
    short: int = 0
    batches: int = 0
    pictures: int = 0
    frames: int = 0
    decode_tokens: int = 0
    question_tokens: int = 0
    vision_seconds: float = 0.0
    decoder_seconds: float = 0.0
    compaction_seconds: float = 0.0

    def since(self, before: Counters) -> StepCounts:
        """What was done since the counters stood as they did `before`."""
        return StepCounts(
            passes=self.passes - before.passes,
            answers=self.decode_tokens - before.decode_tokens,
            tokens=self.tokens - before.tokens,
            pairs=(self.pairs - before.pairs) / 1000,
            batches=self.batches - before.batches,
            pictures=self.pictures - before.pictures,
            short=self.short - before.short,
            keys=(self.keys - before.keys) / 1000,
        )


class Stepper:
    """Reads and changes sessions only between forward passes; `say_whose` is told, before a step's first pass, whose
    work is in it.
    """

    def __init__(
        self,
        device: Computing,
        limits: StepLimits,
        say_whose: SayWhose,
        pace: Pace,
        watch: Watch,
    ) -> None:
        """`watch` is told of what goes through the decoder, and of what is drawn after it."""
        self._device, self.limits, self._watch = device, limits, watch
        self._say_whose, self._pace = say_whose, pace
        self._turns = Turns()
        self.counters = Counters()

    def step(self, sessions: Sequence[Session], now: float) -> bool:
        """One step; False if there was nothing to do. Ties between sessions go to each of them in turn."""
        first = self.counters.steps % max(len(sessions), 1)
        sessions = [*sessions[first:], *sessions[:first]]
        for session in sessions:
            session.advance(now)
        texts = [session for session in sessions if session.texts]
        branches = [(session, branch) for session in sessions for branch in session.answers.running if branch.speaks]
        prompts = [(session, branch) for session, branch in branches if branch.unread]
        frames = [(session, frame) for session in sessions for frame in session.frames]
        if not (texts or branches or frames):
            return self._pace.settle()
        running = [branch for _, branch in branches if not branch.unread]
        step = plan(
            self.limits,
            answers=[self._reading(branch, now) for branch in running],
            prompts=[
                *(Prompt(session.texts[0].tokens, whole=True) for session in texts),
                *(Prompt(branch.unread) for _, branch in prompts),
            ],
            frames=[self._upcoming(session, frame) for session, frame in frames],
            now=now,
        )
        self._turns.took([frames[place][0] for place in step.frames if not frames[place][0].complete])
        counts = {id(branch): count for (_, branch), count in zip(prompts, step.prompts[len(texts) :], strict=True)}
        counts.update((id(branch), int(goes)) for branch, goes in zip(running, step.answers, strict=True))
        answering = [(session, branch, counts[id(branch)]) for session, branch in branches]
        writing = [session for session, count in zip(texts, step.prompts, strict=False) if count]
        seeing = [frames[place][0] for place in (*step.encode, *step.frames)]
        self._say_whose([*(session for session, _, count in answering if count), *writing, *seeing])
        self._encode([frames[place][1] for place in step.encode])
        heard, behind = self._pass(answering, [frames[place][0] for place in step.frames])
        self._write_texts(writing)
        if behind:
            self._pass([], behind)
        if not (any(step.answers) or any(step.prompts) or step.encode or step.frames):
            return self._pace.settle()
        self.counters.steps += 1
        self._pace.stepped(heard)
        return True

    def _upcoming(self, session: Session, frame: Frame) -> Upcoming:
        if frame.share is None:
            frame.share = self._device.eye.share(frame.change, frame.height, frame.width)
        return Upcoming(
            frame.tokens,
            frame.command.deadline,
            encoded=frame.features is not None or not frame.tokens,
            due=session.due_frame is frame,
            turn=math.inf if session.complete else self._turns.of(session),
            share=frame.share,
        )

    def _reading(self, branch: Branch, now: float) -> Reading:
        """What a running answer's reader has; its first tokens were told a step ago."""
        sent = len(branch.answer) - len(branch.question.prefix)
        if branch.begun is None and sent:
            branch.begun = now
        return Reading(sent, now if branch.begun is None else branch.begun)

    def _run(self, works: Sequence[Work]) -> Tensor:
        """A pass through the decoder, counted."""
        self.counters.passes += 1
        counts = [(len(work.tokens), sum([part.tokens for part in work.parts])) for work in works]
        tokens = sum([count for count, _ in counts])
        self.counters.tokens += tokens
        self.counters.short += max(0, FILLING - tokens)
        self.counters.keys += sum([seen for count, seen in counts if count == 1])
        self.counters.pairs += sum([count * seen for count, seen in counts if count > 1])
        with self._timed("decoder_seconds"):
            logits = self._device.run(works)
        self._watch.passed(works, logits)
        return logits

    def _pass(
        self, wanted: Sequence[tuple[Session, Branch, int]], showing: Sequence[Session]
    ) -> tuple[Heard | None, list[Session]]:
        """Running answers and questions, and frames beside them; and whose frame has to wait for what is said.

        Memories make room for frames before any answer is drawn up: what goes is seen by none of them. A frame for
        which more would have to go afterwards, or positions to move, waits for the answers of its session.
        """
        with self._timed("compaction_seconds"):
            shrink([session.demand() for session in showing])
        going: dict[Session, list[tuple[Branch, int]]] = {}
        for session, branch, count in wanted:
            if count:
                going.setdefault(session, []).append((branch, count))
        sayings = [(session, saying) for session, mine in going.items() for saying in session.answers.draw(mine)]
        speaking = {session for session, _ in sayings}
        behind = [session for session in showing if session in speaking and not session.fits]
        shown = self._draw_frames([session for session in showing if session not in behind])
        if not (sayings or shown):
            return None, behind
        logits = self._run([*(saying.work for _, saying in sayings), *(writing.work for _, _, writing in shown)])
        self._commit_frames(shown)
        return (self._said(sayings, logits) if sayings else None), behind

    def _said(self, sayings: Sequence[tuple[Session, Saying]], logits: Tensor) -> Heard:
        """What was said is done, and what follows it is drawn."""
        with self._timed("decoder_seconds"):
            heard = [(session, saying) for session, saying in sayings if saying.work.wanted]
            drawn = self._draw(logits, [saying.branch.sampler for _, saying in heard])
        following = {id(saying): Following(drawn, row) for row, (_, saying) in enumerate(heard)}
        for session, saying in sayings:
            if saying.branch.unread:
                self.counters.question_tokens += len(saying.span)
            else:
                self.counters.decode_tokens += 1
            session.answers.said(saying, following.get(id(saying)))
        return Heard([(session.answers, saying, following[id(saying)]) for session, saying in heard], drawn)

    def _draw(self, logits: Tensor, samplers: Sequence[Sampler]) -> Drawn:
        self._watch.drawing(samplers)
        drawn = sample(logits, samplers)
        self._watch.drew(drawn)
        return drawn

    def _write_texts(self, sessions: Sequence[Session]) -> None:
        drawn = [(session, session.draw_text()) for session in sessions]
        writings = [(session, writing) for session, writing in drawn if writing is not None]
        if not writings:
            return
        self._run([writing.work for _, writing in writings])
        for session, writing in writings:
            session.timeline.commit(writing)

    def _encode(self, frames: Sequence[Frame]) -> None:
        if not frames:
            return
        self.counters.batches += 1
        self.counters.pictures += len(frames)
        with self._timed("vision_seconds"):
            features = self._device.encode([frame.command for frame in frames], [frame.change for frame in frames])
        for frame, seen in zip(frames, features, strict=True):
            frame.features = seen

    def _draw_frames(self, sessions: Sequence[Session]) -> list[Shown]:
        """The next frame of each, under way."""
        drawn = [(session, *session.draw_frame()) for session in sessions]
        return [(session, frame, writing) for session, frame, writing in drawn if writing is not None]

    def _commit_frames(self, shown: Sequence[Shown]) -> None:
        for session, frame, writing in shown:
            session.timeline.commit(writing)
            session.taken(frame, "prefilled")
        self.counters.frames += len(shown)

    @contextmanager
    def _timed(self, counter: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        setattr(self.counters, counter, getattr(self.counters, counter) + time.perf_counter() - started)
