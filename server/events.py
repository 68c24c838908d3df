"""Outputs, records and health as the JSON that clients see."""

from __future__ import annotations

import time
from typing import Any

from protocol.messages import (
    AnswerDelta,
    AnswerDone,
    AnswerFailed,
    AnswerStarted,
    Closed,
    ModelCard,
    Notice,
    Owned,
    QuestionRecord,
    Store,
    Timing,
    Usage,
)
from protocol.sessions import SessionRecord
from server.faults import notice_event
from server.relay import Relayed


def output_event(relayed: Relayed) -> dict[str, Any] | None:
    """The event of one output, None for what clients need not know."""
    event = _event(relayed)
    if event is not None and relayed.id is not None:
        event["event_id"] = str(relayed.id)
    return event


def _event(relayed: Relayed) -> dict[str, Any] | None:
    match relayed.output:
        case AnswerStarted() as started:
            body = {"id": started.question_id, "as_of_ms": started.as_of_ms, "mode": started.mode}
            return {"type": "answer.started", **body}
        case AnswerDelta() as delta:
            body = {"index": delta.index, "text": delta.text, "token_ids": delta.token_ids}
            return {"type": "answer.delta", "id": delta.question_id, **body}
        case AnswerDone() as done:
            return {"type": "answer.done", "id": done.question_id, **_outcome(done)}
        case AnswerFailed() as failed:
            return {"type": "answer.failed", "id": failed.question_id, "error": failure_body(failed)}
        case Notice() as notice:
            return notice_event(notice.code, notice.message, dict(notice.data))
        case Closed() as closed:
            return {"type": "session.closed", "reason": closed.reason}
        case Owned() as owned if relayed.id is not None and relayed.id.major > 1:
            message = "another worker has the session now"
            return notice_event("worker_changed", message, {"lost_ms": owned.lost_ms})
        case _:
            return None


def question_of(relayed: Relayed) -> str | None:
    """Id of the question that an output is about."""
    output = relayed.output
    if isinstance(output, AnswerStarted | AnswerDelta | AnswerDone | AnswerFailed):
        return output.question_id
    return None


def answer_body(record: QuestionRecord) -> dict[str, Any]:
    """The ``answer`` object: a question and its outcome, as far as there is one."""
    ask, outcome = record.ask, record.outcome
    body: dict[str, Any] = {
        "id": ask.question_id,
        "object": "answer",
        "status": "running",
        "question": ask.text,
        "text": "",
        "as_of_ms": None,
        "mode": ask.mode,
        "finish_reason": None,
        "error": None,
        "usage": _usage(Usage()),
        "timing": _timing(Timing()),
    }
    if isinstance(outcome, AnswerDone):
        cancelled = outcome.finish_reason == "cancelled"
        body |= {"status": "cancelled" if cancelled else "done", **_outcome(outcome)}
    elif isinstance(outcome, AnswerFailed):
        body |= {"status": "failed", "finish_reason": "error", "error": failure_body(outcome)}
    return body


def failure_body(failed: AnswerFailed) -> dict[str, Any]:
    return {"type": "server_error", "code": failed.code, "message": failed.message, "param": None}


def _outcome(done: AnswerDone) -> dict[str, Any]:
    return {
        "text": done.text,
        "finish_reason": done.finish_reason,
        "as_of_ms": done.as_of_ms,
        "usage": _usage(done.usage),
        "timing": _timing(done.timing),
    }


def _usage(usage: Usage) -> dict[str, int]:
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}


def _timing(timing: Timing) -> dict[str, float]:
    stamps = {"queued_ms": timing.queued_ms, "first_token_ms": timing.first_token_ms, "total_ms": timing.total_ms}
    return {name: round(value, 1) for name, value in stamps.items()}


def settings_body(record: SessionRecord) -> dict[str, Any]:
    spec = record.spec
    return {
        "fps": spec.fps,
        "budget_tokens": spec.budget_tokens,
        "policy": spec.policy,
        "instructions": spec.instructions,
        "ingest": spec.ingest,
        "dropping": spec.dropping,
        "store": _store(spec.store),
    }


def _store(store: Store | None) -> dict[str, float] | str:
    """What is kept of a session, in the words in which it was asked for."""
    if store is None:
        return "off"
    return "forever" if store.retention_hours is None else {"retention_hours": store.retention_hours}


def stored_kinds(record: SessionRecord) -> list[str]:
    """What is stored of the session, by kind."""
    return [] if record.spec.store is None else ["media", "frames", "texts"]


def session_body(record: SessionRecord, card: ModelCard | None) -> dict[str, Any]:
    """The ``session`` object without its health."""
    spec = record.spec
    return {
        "id": spec.session_id,
        "object": "session",
        "model": spec.model,
        "state": record.state,
        "created_at": spec.created_at,
        "settings": settings_body(record),
        "metadata": spec.metadata,
        "stored": stored_kinds(record),
        "capabilities": capabilities(card),
        "live_url": f"/v1/live?session={spec.session_id}",
    }


def capabilities(card: ModelCard | None) -> dict[str, bool]:
    return {"vision": card is None or card.vision, "audio": card is not None and card.audio}


def health_body(record: SessionRecord) -> dict[str, Any]:
    """Both halves of a session's health: what came in, and what the worker has made of it."""
    way_in, worker = record.ingest, record.stats
    age = None if not way_in.last_frame_at else round(max(time.time() - way_in.last_frame_at, 0.0) * 1000)
    dropped = dict(way_in.frames_dropped)
    for reason, count in worker.frames_dropped.items():
        dropped[reason] = dropped.get(reason, 0) + count
    return {
        "state": record.state,
        "last_frame_age_ms": age,
        "session_time_ms": way_in.session_time_ms,
        "trunk_time_ms": worker.trunk_time_ms,
        "lag_ms": round(worker.lag_ms, 1),
        "fps_in": round(way_in.fps_in, 2),
        "fps_out": round(way_in.fps_out, 2),
        "frames_in": way_in.frames_in,
        "frames_out": way_in.frames_out,
        "frames_prefilled": worker.frames_prefilled,
        "dropped": dropped,
        "conditions": way_in.conditions,
        "memory": {
            "kv_bytes": worker.kv_bytes,
            "kv_budget_bytes": worker.kv_budget_bytes,
            "tokens": worker.tokens,
        },
        "audio_ms": way_in.audio_ms,
    }


def model_body(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "owned_by": "longlook",
        "capabilities": capabilities(card),
        "frame": {"width": card.frame_width, "height": card.frame_height, "tokens": card.tokens_per_frame},
        "max_fps": card.max_fps,
        "policies": list(card.policies),
        "default_budget_tokens": card.default_budget_tokens,
        "max_budget_tokens": card.max_budget_tokens,
    }
