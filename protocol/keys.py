"""Names of Redis keys. Those of one session share its id as hash tag, those of placement share ``{workers}``."""

from __future__ import annotations

import hashlib

from protocol.messages import Lane

LOG = "ll:{log}"  # identity of the data set: gone or changed means that the data is gone
LANES: tuple[Lane, ...] = ("control", "audio", "video")


def session(session_id: str) -> str:
    return f"ll:{{{session_id}}}:session"


def lease(session_id: str) -> str:
    return f"ll:{{{session_id}}}:lease"


def lane(session_id: str, name: Lane) -> str:
    return f"ll:{{{session_id}}}:{name}"


def output(session_id: str) -> str:
    return f"ll:{{{session_id}}}:output"


def question(session_id: str, question_id: str) -> str:
    return f"ll:{{{session_id}}}:question:{question_id}"


def unanswered(session_id: str) -> str:
    """Hash question id -> control entry id of the questions that have no outcome yet."""
    return f"ll:{{{session_id}}}:unanswered"


def questions(session_id: str) -> str:
    """Sorted set of the ids of questions that may still have a record, by the time they were asked."""
    return f"ll:{{{session_id}}}:questions"


def turns(session_id: str) -> str:
    """Stream of the newest questions and answers that the session remembers."""
    return f"ll:{{{session_id}}}:turns"


def token(session_id: str, secret: str) -> str:
    return f"ll:{{{session_id}}}:token:{digest(secret)}"


def idempotency(scope: str, key: str) -> str:
    return f"ll:{{{scope}}}:idempotency:{digest(key)}"


def sources(session_id: str) -> str:
    """Hash name -> SourceSpec."""
    return f"ll:{{{session_id}}}:sources"


def source_states(session_id: str) -> str:
    """How the session's sources are, by name."""
    return f"ll:{{{session_id}}}:sources:states"


def source_holder(session_id: str) -> str:
    """Id of the gateway that pulls the session's sources."""
    return f"ll:{{{session_id}}}:sources:holder"


def pulled() -> str:
    """Sorted set of the ids of sessions that have sources."""
    return "ll:{sources}:sessions"


def tenant(name: str) -> str:
    """Sorted set of a tenant's session ids by the time they were opened."""
    return f"ll:{{tenant:{digest(name)}}}:sessions"


def wake(reader_id: str) -> str:
    return f"ll:{{wake:{reader_id}}}"


def beats() -> str:
    """Sorted set worker id -> server milliseconds until which its advertisement stands."""
    return "ll:{workers}:beats"


def cards() -> str:
    """Hash worker id -> WorkerCard."""
    return "ll:{workers}:cards"


def models() -> str:
    """Hash model name -> ModelCard, of all that were served lately."""
    return "ll:{workers}:models"


def limits() -> str:
    """Hash worker id -> ``capacity tokens:max sessions`` of the workers that take sessions."""
    return "ll:{workers}:limits"


def loads(model: str) -> str:
    """Sorted set worker id -> tokens reserved, of the workers that serve ``model``."""
    return f"ll:{{workers}}:loads:{digest(model)}"


def held(worker_id: str) -> str:
    """Hash session id -> ``tokens:expiry`` of the room reserved on a worker."""
    return f"ll:{{workers}}:held:{worker_id}"


def calls(worker_id: str) -> str:
    """Stream of the sessions placed on a worker."""
    return f"ll:{{workers}}:calls:{worker_id}"


def owned(model: str) -> str:
    """Sorted set session id -> server milliseconds after which, unless renewed, the session has no owner."""
    return f"ll:{{workers}}:owned:{digest(model)}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
