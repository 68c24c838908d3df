"""Is the gateway alive, does it take work, and what does it measure."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse

from protocol.errors import Starting
from server.faults import error_body, error_headers
from server.routes.access import GatewayOf

router = APIRouter(tags=["health"])


@router.get("/livez")
async def alive() -> dict[str, str]:
    """The process serves requests."""
    return {"status": "ok"}


@router.get("/readyz", response_class=JSONResponse)
async def ready(gateway: GatewayOf) -> JSONResponse:
    """Whether requests should be sent here: 200 `ready`, or `starting` while no worker takes sessions (requests are
    answered all the same, if only by 503); 503 `draining`, or `degraded` while the bus does not answer.
    """
    if gateway.condition.draining.is_set():
        return _not_ready("draining", Starting("this gateway is going down", retry_after=5.0))
    if not gateway.condition.bus_up:
        return _not_ready("degraded", Starting("the bus does not answer", retry_after=1.0))
    workers = [
        {
            "id": worker.card.worker_id,
            "model": worker.card.model.name,
            "draining": worker.card.draining,
            "capacity_tokens": worker.card.capacity_tokens,
            "reserved_tokens": worker.reserved_tokens,
        }
        for worker in gateway.board.workers
    ]
    takes_sessions = any(not worker.card.draining for worker in gateway.board.workers)
    status = "ready" if takes_sessions else "starting"
    return JSONResponse({"status": status, "bus_nearly_full": gateway.condition.crowded, "workers": workers})


def _not_ready(status: str, error: Starting) -> JSONResponse:
    return JSONResponse({"status": status, "error": error_body(error)}, error.status, error_headers(error))


@router.get("/metrics")
async def metrics(gateway: GatewayOf) -> Response:
    """Prometheus' text format."""
    return Response(gateway.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
