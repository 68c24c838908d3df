"""The engine: sessions on one model, advanced step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

from protocol.messages import ModelCard
from workers.engine.answers import Emit, Voice
from workers.engine.device import Computing, Device, MakeAttention, Pixels
from workers.engine.fairness import Governor
from workers.engine.incoming import Frame, look_of
from workers.engine.messages import (
    AskQuestion,
    CancelQuestion,
    CloseSession,
    Command,
    EndMedia,
    Opened,
    OpenSession,
    PushFrame,
    Ready,
    Refused,
    RememberTurn,
    SessionClosed,
    StepStats,
    Working,
)
from workers.engine.pace import Pace
from workers.engine.scheduler import StepLimits
from workers.engine.session import Session, taken
from workers.engine.settings import EngineSettings
from workers.engine.stepper import Counters, Stepper
from workers.engine.timeline import Bounds
from workers.engine.watch import Auditor, Unmoved, Watch
from workers.memory.facts import Facts
from workers.memory.policies import POLICIES
from workers.memory.policy import Policy
from workers.memory.pool import PoolExhausted
from workers.memory.trunk import Trunk
from workers.models.checkpoint import Checkpoint
from workers.perception.changes import USUAL_THRESHOLD, ChangeFilter

CAPACITY = 0.85  # seconds of frames' work in a second: the rest is for answers, and for what nobody foresees
MakeDevice = Callable[[Checkpoint, EngineSettings, Pixels, MakeAttention | None], Computing]


class Engine:
    """Takes commands between steps; everything it has to say goes to `emit` the moment it is known."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: EngineSettings,
        pixels: Pixels,
        emit: Emit,
        make_attention: MakeAttention | None = None,
        now: Callable[[], float] = time.monotonic,
        ahead: bool | None = None,
        policies: Mapping[str, Callable[[], Policy]] = POLICIES,
        watch: Watch | None = None,
        make_device: MakeDevice = Device,
    ) -> None:
        """`pixels` gives a pushed frame's picture; it is read once, before the frame's FrameTaken.

        `policies` says by which memories may be kept, and so what is kept of them; `watch` is told what steps do.

        `ahead`: the device is given a step before the host has read what was drawn in the one before, so that neither
        waits for the other. None: where there is a GPU. `make_device`: what computes, if that is not one device alone.
        """
        self._checkpoint, self._settings = checkpoint, settings
        self._pixels, self._emit, self._now = pixels, emit, now
        self._voice = Voice(checkpoint.chat, checkpoint.tokenizer)
        self.device = make_device(checkpoint, settings, pixels, make_attention)
        self._eye, self.pool, self._graphs = self.device.eye, self.device.pool, self.device.graphs
        limits = StepLimits(
            settings.step_tokens,
            settings.step_pictures,
            settings.floor_tokens,
            settings.answer_tokens,
            settings.picture_tokens,
        )
        self._trained_length = settings.trained_length or checkpoint.config.text.trained_length
        self.sessions: dict[str, Session] = {}
        device = self.pool.store.keys.device
        pace = Pace(device, device.type == "cuda" if ahead is None else ahead)
        self._policies = policies
        self._watch = watch or (Auditor(self.sessions) if settings.check_books else Unmoved())
        self._stepper = Stepper(self.device, limits, self._say_whose, pace, self._watch)
        self._governor = Governor(CAPACITY) if settings.frame_seconds else None
        self._working: list[str] = []
        self._groups = 0

    @property
    def ready(self) -> Ready:
        """What this engine can do."""
        tokens = (self.pool.pages - (self._graphs is not None)) * self.pool.page_size
        card = ModelCard(
            name=self._settings.name,
            frame_width=self._eye.side,
            frame_height=self._eye.side,
            tokens_per_frame=self._eye.tokens,
            pictures_per_grid=1,
            max_fps=self._checkpoint.config.vision.tokens_per_second,
            default_budget_tokens=min(self._settings.default_budget, tokens),
            max_budget_tokens=tokens,
            bytes_per_token=self.pool.page_bytes // self.pool.page_size,
            policies=list(self._policies),
        )
        return Ready(card=card, capacity_tokens=tokens, frame_seconds=self._settings.frame_seconds)

    def warm(self) -> None:
        """Prepares on a GPU what the first pictures and answers would wait for."""
        self.device.warm()

    @property
    def counters(self) -> Counters:
        """What was done since the start; they go on counting."""
        return self._stepper.counters

    @property
    def stats(self) -> StepStats:
        counters = self.counters
        return StepStats(
            steps=counters.steps,
            frames=counters.frames,
            decode_tokens=counters.decode_tokens,
            question_tokens=counters.question_tokens,
            pages_used=self.pool.pages_used,
            pages_total=self.pool.pages,
            vision_seconds=counters.vision_seconds,
            decoder_seconds=counters.decoder_seconds,
            queued_frames=sum(len(session.frames) for session in self.sessions.values()),
            effort=fmean(map(self._effort, self.sessions.values())) if self.sessions else 1.0,
        )

    def step(self) -> bool:
        """One step; False if there was nothing to do. Sessions that are to be alone have their own steps, in turn."""
        sessions = list(self.sessions.values())
        self._govern()
        together = [session for session in sessions if not session.alone]
        groups = [together, *([session] for session in sessions if session.alone)]
        self._groups += 1
        first, now = self._groups % len(groups), self._now()
        if any(self._stepper.step(group, now) for group in [*groups[first:], *groups[:first]]):
            return True
        self._say_whose([])
        return False

    @property
    def waiting(self) -> bool:
        """Whether time alone may bring something to do."""
        return any(session.waiting or session.frames for session in self.sessions.values())

    # --- commands -----------------------------------------------------------------------------------------------------

    def handle(self, command: Command) -> None:
        """Carries a command out, or refuses it by an event."""
        if isinstance(command, OpenSession):
            self._open(command)
        elif isinstance(command, PushFrame):
            self._push(command)
        elif isinstance(command, AskQuestion | RememberTurn | CancelQuestion | EndMedia | CloseSession):
            session = self.sessions.get(command.session_id)
            if session is None:
                question_id = command.question_id if isinstance(command, AskQuestion | CancelQuestion) else ""
                self._refuse(command.session_id, "unknown_session", "no such session is open here", question_id)
            else:
                self._tell(session, command)

    def _tell(
        self, session: Session, command: AskQuestion | RememberTurn | CancelQuestion | EndMedia | CloseSession
    ) -> None:
        if isinstance(command, AskQuestion):
            session.ask(command)
        elif isinstance(command, RememberTurn):
            session.remember(command)
        elif isinstance(command, CancelQuestion):
            session.cancel(command.question_id)
        elif isinstance(command, EndMedia):
            session.end_media()
        else:
            session.close()
            self.device.clear(self.pool.close(session.trunk.share))
            del self.sessions[session.id]
            self._emit(SessionClosed(session_id=session.id))

    def _open(self, command: OpenSession) -> None:
        make_policy = self._policies.get(command.policy)
        page_size = self.pool.page_size
        pages = command.budget_tokens // page_size
        bounds = self._bounds(pages)
        header = len(self._voice.chat.header(command.instructions))
        smallest = header + 2 * page_size + 2 * self._eye.tokens
        if command.session_id in self.sessions:
            self._refuse(command.session_id, "duplicate_session", "a session of this id is open")
        elif make_policy is None:
            self._refuse(command.session_id, "unknown_policy", f"policies are {', '.join(self._policies)}")
        elif bounds.pages * page_size < smallest or header + self._eye.tokens > bounds.trained_length // 2:
            message = f"{command.budget_tokens} tokens are too few for {header} of instructions and two frames"
            self._refuse(command.session_id, "budget_too_small", message)
        else:
            try:
                share = self.pool.open(pages)
            except PoolExhausted as error:
                self._refuse(command.session_id, "no_capacity", str(error))
                return
            trunk = Trunk(share, Facts(), make_policy(), self.device.turn, self._watch, self.device.gather)
            changes = self._changes(command.dropping)
            self.sessions[command.session_id] = Session(command, trunk, bounds, self._voice, self._emit, changes)
            self._emit(Opened(session_id=command.session_id, kv_budget_bytes=pages * self.pool.page_bytes))

    def _bounds(self, pages: int) -> Bounds:
        """A quarter of the share is left beside the trunk, or what four frames and a short exchange take, if less."""
        aside = min(pages // 4, -(-(4 * self._eye.tokens + 256) // self.pool.page_size))
        return Bounds(pages - aside, self._trained_length, self._settings.reanchor)

    def _govern(self) -> None:
        """Caps the frame rates of live sessions, at the same height for all, where there is not time for all."""
        if self._governor is None:
            return
        live = [session for session in self.sessions.values() if not session.complete]
        for session in live:
            self._governor.late(session.late)
            session.late = 0
        whole = self._settings.frame_seconds
        caps = self._governor.review(self._now(), {session.id: whole * self._effort(session) for session in live})
        for session in live:
            if session.id in caps:
                session.cap(caps[session.id])

    def _effort(self, session: Session) -> float:
        """Of the work that a whole frame is, what the session's frames are of late."""
        shares, tokens, picture = session.frames.shares, self._eye.tokens, self._settings.picture_tokens
        return (shares.tokens * tokens + shares.picture * picture) / (tokens + picture)

    def _changes(self, wanted: bool | None) -> ChangeFilter | None:
        """What drops redundancy, where a session wants that or, None, the engine is set to it."""
        usual = self._settings.drop_threshold
        threshold = usual if wanted is None else wanted and (usual or USUAL_THRESHOLD)
        every = self._settings.drop_whole
        return ChangeFilter(threshold, every, len(self.sessions) % max(every, 1)) if threshold else None

    def _push(self, command: PushFrame) -> None:
        session = self.sessions.get(command.session_id)
        if session is None:
            self._emit(taken(command, "dropped_closed"))
            return
        try:
            height, width = self._eye.size(command.height, command.width)
            picture = self._pixels(command)
            seen = look_of(command, picture) if session.frames.drops else None
        except ValueError:
            self._emit(taken(command, "dropped_invalid"))
            return
        if self._governor is not None and not session.complete:
            self._governor.offered(session.id)
            if not session.thinning.admits(command.t_ms):
                session.pass_over(command)
                return
        session.push(Frame(command, height, width, seen))

    def _say_whose(self, sessions: Iterable[Session]) -> None:
        working = sorted({session.id for session in sessions})
        if working != self._working:
            self._working = working
            self._emit(Working(session_ids=working))

    def _refuse(self, session_id: str, code: str, message: str, question_id: str = "") -> None:
        self._emit(Refused(session_id=session_id, question_id=question_id, code=code, message=message))
