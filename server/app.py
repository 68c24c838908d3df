"""The gateway's application, put together from its parts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from protocol.bus import Bus
from protocol.errors import BadRequest, LonglookError, NotFound, TimedOut, TooLarge
from server.auth import Keyring
from server.faults import error_response
from server.gateway import running_gateway
from server.metrics import Metrics
from server.requests import BodyLimit, RequestLog
from server.routes import answers, health, live, media, models, page, recordings, sessions, sources
from server.settings import Settings

logger = logging.getLogger(__name__)


def create_app(settings: Settings, bus: Bus, keyring: Keyring) -> FastAPI:
    """The ASGI application. The bus stays the caller's; all else lives and dies with the application's lifespan."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running_gateway(settings, bus, keyring, metrics) as gateway:
            app.state.gateway = gateway
            yield

    app = FastAPI(
        title="Longlook",
        summary="Questions about live video and audio, answered while it is still running.",
        version=version("longlook"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    for room in (sessions, answers, media, sources, recordings, live, models, health):
        app.include_router(room.router)
    app.mount("/", page.Page(settings.web_dir), name="page")
    app.add_exception_handler(LonglookError, _named)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(BodyLimit, limits=settings.limits)
    app.add_middleware(RequestLog, metrics=metrics)
    return app


async def _named(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LonglookError)  # noqa: S101 - Starlette hands each handler its own kind
    return error_response(error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    return error_response(BadRequest(first["msg"], param=".".join(where) or None))


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    named = {404: NotFound, 408: TimedOut, 413: TooLarge}.get(error.status_code, BadRequest)
    response = error_response(named(str(error.detail)))
    response.status_code = error.status_code
    return response


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("a request failed", exc_info=error)
    return error_response(LonglookError("the request failed inside the gateway"))
