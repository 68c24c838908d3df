"""Bodies of REST requests, and examples of what comes back, for validation and for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from protocol.messages import Store
from server.terms import AskTerms, OpenTerms

LONGEST_RETENTION_HOURS = 24 * 366 * 10  # ten years; longer is for ever

SESSION_EXAMPLE: dict[str, Any] = {
    "id": "s_5f0c3a9e1b7d4c2a8e6f9b01",
    "object": "session",
    "model": "mini",
    "state": "starting",
    "created_at": 1795417200.0,
    "settings": {
        "fps": 1.0,
        "budget_tokens": 2560,
        "policy": "window",
        "instructions": "",
        "ingest": "live",
        "dropping": None,
        "store": "off",
    },
    "metadata": {"camera": "front door"},
    "stored": [],
    "capabilities": {"vision": True, "audio": False},
    "live_url": "/v1/live?session=s_5f0c3a9e1b7d4c2a8e6f9b01",
}
HEALTH_EXAMPLE: dict[str, Any] = {
    "state": "live",
    "last_frame_age_ms": 412,
    "session_time_ms": 61000,
    "trunk_time_ms": 61000,
    "lag_ms": 96.4,
    "fps_in": 15.0,
    "fps_out": 1.0,
    "frames_in": 915,
    "frames_out": 62,
    "frames_prefilled": 62,
    "dropped": {"superseded": 1},
    "conditions": {"frozen": [0]},
    "memory": {"kv_bytes": 12582912, "kv_budget_bytes": 18874368, "tokens": 2048},
    "audio_ms": 0,
}
TOKEN_EXAMPLE: dict[str, Any] = {"connect_token": "ct_Qm9fR2lRr1mW", "connect_token_expires_in": 60}
ANSWER_EXAMPLE: dict[str, Any] = {
    "id": "q_91b2c3d4e5f60718",
    "object": "answer",
    "status": "done",
    "question": "What is on the table?",
    "text": "A red cube and a blue ball.",
    "as_of_ms": 61000,
    "mode": "frozen",
    "finish_reason": "stop",
    "error": None,
    "usage": {"prompt_tokens": 14, "completion_tokens": 9},
    "timing": {"queued_ms": 12.1, "first_token_ms": 96.0, "total_ms": 310.5},
}
MEDIA_EXAMPLE: dict[str, Any] = {
    "accepted": True,
    "media_id": "m_0a1b2c3d4e5f",
    "kind": "file",
    "start_ms": 0,
    "frames": 6,
    "duration_ms": 5312,
    "damaged": 0,
}
RECORDING_EXAMPLE: dict[str, Any] = {
    "object": "recording",
    "session": "s_5f0c3a9e1b7d4c2a8e6f9b01",
    "created_at": 1795417200.0,
    "retention_hours": 24.0,
    "bytes": 7412331,
    "holds": [
        {
            "kind": "media",
            "track": 0,
            "codec": "h264",
            "from_ms": 0,
            "to_ms": 61000,
            "records": 915,
            "bytes": 7209012,
        }
    ],
}
TEXT_EXAMPLE: dict[str, Any] = {
    "kind": "answer",
    "question": "q_91b2c3d4e5f60718",
    "at_ms": 61000,
    "said_at": 1795417262.1,
    "text": "A red cube and a blue ball.",
    "finish_reason": "stop",
    "error": None,
}
MODEL_EXAMPLE: dict[str, Any] = {
    "id": "mini",
    "object": "model",
    "owned_by": "longlook",
    "capabilities": {"vision": True, "audio": False},
    "frame": {"width": 224, "height": 224, "tokens": 64},
    "max_fps": 2.0,
    "policies": ["window", "infinipot", "full"],
    "default_budget_tokens": 2560,
    "max_budget_tokens": 16384,
}


class StoreBody(BaseModel):
    """How long what is stored is kept after it was written."""

    model_config = ConfigDict(extra="forbid")

    retention_hours: float = Field(gt=0, le=LONGEST_RETENTION_HOURS)


class SessionBody(BaseModel):
    """What a session is opened with."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, max_length=256, description="default: the only model that is served")
    fps: float = Field(default=1.0, description="pictures a second that the model sees, at most the model's max_fps")
    budget_tokens: int | None = Field(default=None, description="memory of the session; default: the model's")
    policy: str | None = Field(default=None, max_length=64, description="how the memory is kept inside its budget")
    instructions: str = Field(
        default="", description="said to the model once, before everything else; empty: that it watches a live video"
    )
    ingest: Literal["live", "complete"] = Field(
        default="live", description="live keeps up with the present and may drop pictures; complete drops nothing"
    )
    dropping: bool | None = Field(
        default=None, description="whether patches that stand still are left out of the memory; default: the server's"
    )
    store: Literal["off", "forever"] | StoreBody = Field(
        default="off", description="whether media, frames and texts are kept on disk, and for how long"
    )
    metadata: dict[str, str] = Field(
        default_factory=dict,
        description="the client's own words about the session, given back as they are: at most 16 pairs of keys of"
        " 1 to 64 characters and values of at most 512",
    )

    def terms(self) -> OpenTerms:
        store = None
        if self.store != "off":
            store = Store(retention_hours=self.store.retention_hours if isinstance(self.store, StoreBody) else None)
        return OpenTerms(**self.model_dump(exclude={"store"}), store=store)


class QuestionBody(BaseModel):
    """A question about the session's media."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"question": "What is on the table?", "max_tokens": 64}]}
    )

    question: str = Field(description="at most 8,192 characters")
    id: str | None = Field(default=None, description="1 to 64 letters, digits, _ . : -; default: made by the server")
    mode: Literal["frozen", "live"] = Field(
        default="frozen", description="frozen answers about the moment asked about; live goes on watching"
    )
    at_ms: int | None = Field(default=None, description="session time asked about; default: the newest picture")
    remember: bool = Field(default=True, description="whether question and answer become part of the memory")
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stream: bool = Field(default=False, description="answer as server-sent events")

    def terms(self) -> AskTerms:
        return AskTerms(**self.model_dump(exclude={"stream"}))


def shown(example: dict[str, Any], description: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` argument of a route whose answer looks like ``example``."""
    refused = {"type": "not_found_error", "code": "not_found", "message": "no such session", "param": None}
    return {
        status: {"description": description, "content": {"application/json": {"example": example}}},
        "4XX": {
            "description": "Refused; `code` says why.",
            "content": {"application/json": {"example": {"error": refused}}},
        },
    }
