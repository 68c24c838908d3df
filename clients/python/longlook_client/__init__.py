"""Client for Longlook: ask questions about live video and audio while it is still running.

with Client("http://127.0.0.1:8080", key="...") as client, client.create_session(fps=1) as session:
    with session.live() as live:
        live.send_picture(jpeg)
        for delta in live.ask("What is on the screen?"):
            print(delta.text, end="")
"""

from longlook_client._answer import AsyncAnswer
from longlook_client._client import AsyncClient
from longlook_client._errors import (
    AnswerError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ConnectError,
    ForbiddenError,
    LonglookError,
    NotFoundError,
    ProtocolError,
    ServerError,
    SessionClosedError,
    TooLargeError,
    UnavailableError,
    WaitTimeoutError,
)
from longlook_client._live import AsyncLiveSession, Event
from longlook_client._media import MediaStats
from longlook_client._options import QuestionOptions, SessionOptions
from longlook_client._session import AsyncSession
from longlook_client._sync import Answer, Client, LiveSession, Session
from longlook_client._types import (
    AnswerResult,
    Clip,
    Connection,
    Delta,
    Frame,
    FrameShape,
    Health,
    MediaReceipt,
    Memory,
    Model,
    Notice,
    SessionInfo,
    SessionSettings,
    Source,
    Timing,
    Usage,
)

__all__ = [
    "Answer",
    "AnswerError",
    "AnswerResult",
    "AsyncAnswer",
    "AsyncClient",
    "AsyncLiveSession",
    "AsyncSession",
    "AuthenticationError",
    "BadRequestError",
    "Client",
    "Clip",
    "ConflictError",
    "ConnectError",
    "Connection",
    "Delta",
    "Event",
    "ForbiddenError",
    "Frame",
    "FrameShape",
    "Health",
    "LiveSession",
    "LonglookError",
    "MediaReceipt",
    "MediaStats",
    "Memory",
    "Model",
    "NotFoundError",
    "Notice",
    "ProtocolError",
    "QuestionOptions",
    "ServerError",
    "Session",
    "SessionClosedError",
    "SessionInfo",
    "SessionOptions",
    "SessionSettings",
    "Source",
    "Timing",
    "TooLargeError",
    "UnavailableError",
    "Usage",
    "WaitTimeoutError",
]
