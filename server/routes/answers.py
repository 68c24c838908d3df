"""REST: questions, their answers, and everything that a session says."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from starlette.responses import JSONResponse

from protocol.errors import LogLost, SessionClosed
from protocol.ids import EntryId
from protocol.messages import AnswerDone, AnswerFailed, Closed, Output
from protocol.sessions import SessionRecord
from server.events import answer_body, question_of
from server.gateway import Gateway
from server.relay import Relayed, SlowReader
from server.routes.access import GatewayOf, Record, UsableRecord
from server.routes.schema import ANSWER_EXAMPLE, QuestionBody, shown
from server.routes.streams import EventStream, last_event

router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["questions"])

IdempotencyKey = Annotated[str | None, Header(max_length=256)]


@router.post("/questions", response_model=None, responses=shown(ANSWER_EXAMPLE, "The answer."))
async def ask(
    body: QuestionBody, record: UsableRecord, gateway: GatewayOf, idempotency_key: IdempotencyKey = None
) -> Response:
    """Ask, and wait for the answer; with `stream`, get it as server-sent events.

    202 with `status: "running"` when the answer takes longer than a minute: ask for it again by its id.
    """
    session_id = record.spec.session_id
    if idempotency_key is None:
        begin = await gateway.sessions.position(session_id)
        question_id = await gateway.sessions.ask(record, body.terms())
    else:
        begin = EntryId(0, 0)  # it may have been asked, and answered, before
        question_id = await gateway.sessions.ask_once(record, body.terms(), idempotency_key)
    if body.stream:
        return _stream(gateway, record, question_id, begin)
    last = await _wait(gateway, session_id, question_id, begin)
    if isinstance(last, AnswerFailed) and last.code == LogLost.code:
        raise LogLost(last.message)  # the question itself is gone, too
    found = answer_body(await gateway.sessions.question(session_id, question_id))
    if found["status"] == "running" and isinstance(last, Closed):
        raise SessionClosed("the session was closed before the answer was complete")
    return JSONResponse(found, 202 if found["status"] == "running" else 200)


@router.get("/questions/{question_id}", responses=shown(ANSWER_EXAMPLE, "The answer as far as there is one."))
async def get_answer(question_id: str, record: Record, gateway: GatewayOf) -> dict[str, Any]:
    """An answer by its question's id, until ten minutes after it was complete."""
    return answer_body(await gateway.sessions.question(record.spec.session_id, question_id))


@router.delete("/questions/{question_id}", status_code=202)
async def cancel(question_id: str, record: UsableRecord, gateway: GatewayOf) -> dict[str, Any]:
    """Stop an answer; what it has said so far stands."""
    await gateway.sessions.cancel(record.spec.session_id, question_id)
    return {"id": question_id, "cancelling": True}


@router.get("/events", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
async def events(
    record: Record,
    gateway: GatewayOf,
    last_event_id: Annotated[str | None, Header()] = None,
    after: Annotated[str | None, Query(alias="last_event_id")] = None,
) -> Response:
    """All that the session says, as server-sent events; goes on after `Last-Event-ID`."""
    place = gateway.sockets.hold(record.spec.tenant, gateway.settings.limits.sockets)
    begin, over = last_event(last_event_id or after), record.state == "closed"
    return EventStream(gateway, record.spec.session_id, begin, place=place, over=over)


def _stream(gateway: Gateway, record: SessionRecord, question_id: str, begin: EntryId) -> Response:
    return EventStream(
        gateway,
        record.spec.session_id,
        begin,
        place=gateway.sockets.hold(record.spec.tenant, gateway.settings.limits.sockets),
        wanted=lambda relayed: question_of(relayed) == question_id or isinstance(relayed.output, Closed),
        ends=lambda relayed: _ends(relayed, question_id),
        opening={"type": "question.accepted", "id": question_id},
    )


async def _wait(gateway: Gateway, session_id: str, question_id: str, begin: EntryId) -> Output | None:
    """Until the question has its outcome or the session is closed, which is returned, or the time is up."""
    try:
        async with asyncio.timeout(gateway.settings.limits.answer_s):
            async with gateway.sessions.subscribe(session_id, begin) as outputs:
                while (relayed := await outputs.next()) is not None:
                    if _ends(relayed, question_id) or isinstance(relayed.output, Closed):
                        return relayed.output
    except (TimeoutError, SlowReader):
        return None
    return None


def _ends(relayed: Relayed, question_id: str) -> bool:
    return isinstance(relayed.output, AnswerDone | AnswerFailed) and relayed.output.question_id == question_id
