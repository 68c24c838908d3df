"""The options of sessions and questions, written down once. What is left out takes the server's default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from longlook_client._types import Ingest, Mode, Store


class SessionOptions(TypedDict, total=False):
    """``fps``: sampled frames a second. ``budget_tokens``: the session's memory on the worker. ``ingest``: ``live``
    keeps up with the present and may drop pictures, ``complete`` drops nothing. ``dropping``: whether patches that
    stand still are left out of the memory. ``store``: whether the session is recorded, and for how long: ``off``,
    ``forever`` or ``{"retention_hours": 24}``. ``metadata``: words of your own that the session carries."""

    model: str
    fps: float
    budget_tokens: int
    policy: str
    instructions: str
    ingest: Ingest
    dropping: bool
    store: Store
    metadata: Mapping[str, str]


class QuestionOptions(TypedDict, total=False):
    """``id``: yours, so that a repeated question is asked once. ``mode``: ``frozen`` answers about the moment of the
    question, ``live`` follows the stream while it answers. ``at_ms``: the session time that the question is about.
    ``remember``: whether question and answer stay in the session's memory."""

    id: str
    mode: Mode
    at_ms: int
    remember: bool
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
