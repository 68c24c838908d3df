"""The six verbs that every dialect translates into: open, append, ask, cancel, close, subscribe."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from protocol import ids
from protocol.errors import Conflict, NotFound, RateLimited
from protocol.ids import EntryId
from protocol.messages import AnswerDone, AnswerFailed, Ask, Closed, QuestionRecord, SessionSpec
from protocol.sessions import SessionRecord
from server.feeds import Feeds
from server.journal.recorder import Recorder
from server.limits import Allowance
from server.media.ingest import Ingest
from server.parts import Parts
from server.placement import check_terms
from server.relay import Relayed, Subscription
from server.revival import Revival
from server.terms import AskTerms, OpenTerms

DEFAULT_POLICY = "window"


class Sessions:
    """All sessions, as far as one gateway has to do with them."""

    def __init__(self, parts: Parts, feeds: Feeds, revival: Revival) -> None:
        self._bus = parts.bus
        self._board = parts.board
        self._relay = parts.relay
        self._questions = parts.questions
        self._journal = parts.journal
        self._limits = parts.settings.limits
        self._feeds = feeds
        self._revival = revival
        self._rates = Allowance("questions")

    # --- records ------------------------------------------------------------------------------------------------------

    async def get(self, tenant: str, session_id: str) -> SessionRecord:
        """Raises NotFound, for another tenant's session as for none."""
        if not ids.is_session_id(session_id):
            raise NotFound("no such session")
        await self._revival.settled(session_id)
        record = await self._bus.sessions.get(session_id)
        if record.spec.tenant != tenant:
            raise NotFound("no such session")
        return record

    async def usable(self, tenant: str, session_id: str) -> SessionRecord:
        """Raises NotFound, SessionClosed."""
        record = await self.get(tenant, session_id)
        record.check_usable()
        return record

    async def of_tenant(self, tenant: str) -> list[SessionRecord]:
        """All that still have a record, oldest first. Raises BusUnavailable."""
        return await self._bus.sessions.of_tenant(tenant)

    # --- open, close --------------------------------------------------------------------------------------------------

    async def open(self, tenant: str, terms: OpenTerms) -> SessionRecord:
        """Raises Starting, UnknownModel, NoCapacity, BadRequest, UnknownPolicy, TooLarge, RateLimited.

        What is to be stored has its place before the session exists: an error leaves nothing behind.
        """
        terms.check(self._limits)
        card = await self._board.served(terms.model)
        budget = card.default_budget_tokens if terms.budget_tokens is None else terms.budget_tokens
        policy = terms.policy or (DEFAULT_POLICY if DEFAULT_POLICY in card.policies else card.policies[0])
        check_terms(card, terms.fps, budget, policy)
        open_now = [record for record in await self.of_tenant(tenant) if not record.over]
        if len(open_now) >= self._limits.sessions:
            raise RateLimited(f"at most {self._limits.sessions} sessions at a time", retry_after=5.0)
        spec = SessionSpec(
            session_id=ids.session_id(),
            tenant=tenant,
            model=card.name,
            fps=terms.fps,
            budget_tokens=budget,
            policy=policy,
            instructions=terms.instructions,
            ingest=terms.ingest,
            created_at=round(time.time(), 3),
            store=terms.store,
            metadata=dict(terms.metadata),
            dropping=terms.dropping,
        )
        await self._journal.admit(spec)
        try:
            await self._board.place(spec)
        except BaseException:
            await self._journal.erase(tenant, spec.session_id)
            raise
        return await self._bus.sessions.get(spec.session_id)

    async def delete(self, tenant: str, session_id: str) -> None:
        """Close the session if it is open, and erase all that there is of it: on the bus, and in the journal.

        Raises:
            NotFound: the tenant has no such session, and nothing of it is stored.
            NoCapacity: the journal's disk refuses.
        """
        try:
            record = await self.get(tenant, session_id)
        except NotFound:
            if not ids.is_session_id(session_id) or not await self._journal.erase(tenant, session_id):
                raise
            return
        await self._bus.sessions.erase(record.spec)
        if not record.over:
            await self.close(record, "client")
        await self._journal.erase(tenant, session_id)

    async def close(self, record: SessionRecord, reason: str) -> None:
        """From here on nothing is taken; the worker, if there is one, says Closed and frees the room."""
        spec = record.spec
        self._feeds.drop(spec.session_id)
        owned = await self._bus.lanes.close(spec.session_id, reason)
        await self._bus.sources.forget(spec.session_id)
        if not owned and await self._bus.sessions.finish(spec.session_id, reason):
            await self._bus.placement.vacate(record.worker_id, spec.model, spec.session_id, "closed")

    # --- append -------------------------------------------------------------------------------------------------------

    async def feed(self, record: SessionRecord) -> Ingest:
        """Where the session's media go in. Raises Starting."""
        self._revival.know(record.spec)
        return await self._feeds.of(record)

    def fed(self, session_id: str) -> Ingest | None:
        """Where the session's media go in, if this gateway feeds it."""
        return self._feeds.known(session_id)

    async def end_media(self, record: SessionRecord) -> int:
        """Wait until all media are in the lanes, and say that no more will come; the newest picture's session time."""
        newest_ms = await (await self.feed(record)).flush()
        await self._bus.lanes.media_end(record.spec.session_id, max(newest_ms, record.newest_ms, 0))
        return newest_ms

    # --- ask, cancel --------------------------------------------------------------------------------------------------

    async def ask(self, record: SessionRecord, terms: AskTerms) -> str:
        """Append a question and return its id; once this returns, it is accepted. Putting the same again is no error.

        Raises:
            QuestionTooLong, BadRequest, RateLimited, NotFound, SessionClosed
            Conflict: the id was used for another question.
        """
        terms.check(self._limits)
        session_id = record.spec.session_id
        await self._revival.settled(session_id)
        self._revival.know(record.spec)
        feed = self._feeds.known(session_id)
        newest_ms = max(record.newest_ms, -1 if feed is None else await feed.asked(), 0)
        self._rates.spend(record.spec.tenant, self._limits.questions_per_s)
        ask = Ask(
            question_id=terms.id or ids.question_id(),
            text=terms.question,
            at_ms=newest_ms if terms.at_ms is None else terms.at_ms,
            mode=terms.mode,
            remember=terms.remember,
            max_tokens=terms.max_tokens,
            temperature=terms.temperature,
            top_p=terms.top_p,
            seed=0 if terms.seed is None else terms.seed,
            asked_at=time.time(),
        )
        await self._append(session_id, ask, terms, await self._journal.recorder(record.spec))
        return ask.question_id

    async def _append(self, session_id: str, ask: Ask, terms: AskTerms, recorder: Recorder) -> None:
        await self._relay.hold(session_id)  # before the append, so that nothing of the answer is missed
        mine = self._questions.expect(session_id, ask, lambda: self._relay.release(session_id))
        if not mine:
            self._relay.release(session_id)
        try:
            await self._bus.lanes.ask(session_id, ask)
        except BaseException as error:
            if mine:
                self._questions.forget(session_id, ask.question_id)
            before = await self.question(session_id, ask.question_id) if isinstance(error, Conflict) else None
            if before is None or not terms.same_as(before.ask):
                raise
        else:
            recorder.asked(ask)

    async def ask_once(self, record: SessionRecord, terms: AskTerms, key: str) -> str:
        """Like ``ask``, but a request repeated under the same idempotency key means the same question."""
        terms.check(self._limits)
        session_id = record.spec.session_id
        question_id = terms.id or ids.question_id()
        stored = await self._bus.sessions.once(session_id, key, terms.digest(), question_id.encode())
        if stored is not None:
            question_id = stored.decode()
        try:
            return await self.ask(record, replace(terms, id=question_id))
        except BaseException:
            if stored is None:
                await self._bus.sessions.forget_once(session_id, key)
            raise

    async def question(self, session_id: str, question_id: str) -> QuestionRecord:
        """Raises NotFound, also ten minutes after its outcome."""
        if not ids.is_question_id(question_id):
            raise NotFound("no such question")
        return await self._bus.outputs.question(session_id, question_id)

    async def cancel(self, session_id: str, question_id: str) -> None:
        """Raises NotFound, SessionClosed."""
        if not ids.is_question_id(question_id):
            raise NotFound("no such question")
        await self._bus.lanes.cancel(session_id, question_id)

    # --- subscribe ----------------------------------------------------------------------------------------------------

    async def position(self, session_id: str) -> EntryId:
        """Id of the newest output: a reader that begins after it misses nothing of what is asked for next."""
        return await self._bus.outputs.newest(session_id)

    def attend(self, record: SessionRecord, after: EntryId | None) -> AbstractAsyncContextManager[Subscription]:
        """Like ``subscribe``, and where the bus loses the session meanwhile, it is opened again."""
        if not record.over:
            self._revival.know(record.spec)
        return self._relay.subscribe(record.spec.session_id, after, over=record.state == "closed")

    def reviving(self, session_id: str) -> bool:
        """Whether the session is being opened again on a bus that lost it."""
        return self._revival.reviving(session_id)

    def subscribe(
        self, session_id: str, after: EntryId | None = None, *, over: bool = False
    ) -> AbstractAsyncContextManager[Subscription]:
        """The session's outputs after an id, or from now on; ``over``: as ``Relay.subscribe`` has it."""
        return self._relay.subscribe(session_id, after, over=over)

    # --- what goes on by itself ---------------------------------------------------------------------------------------

    def observe(self, relayed: Relayed) -> None:
        """Every live output passes here."""
        self._questions.observe(relayed)
        match relayed.output:
            case AnswerDone() | AnswerFailed() as outcome:
                self._journal.known(relayed.session_id).ended(outcome)
            case Closed():
                self._feeds.drop(relayed.session_id)
