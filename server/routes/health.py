"""Is the gateway alive, does it take work, and what does it measure."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from protocol.errors import Starting
from server.routes.access import GatewayOf

router = APIRouter(tags=["health"])


@router.get("/livez")
async def alive() -> dict[str, str]:
    """The process serves requests."""
    return {"status": "ok"}


@router.get("/readyz")
async def ready(gateway: GatewayOf) -> dict[str, Any]:
    """The bus answers and the gateway is not going down; the workers that are ready, which may be none."""
    if gateway.condition.draining.is_set():
        raise Starting("this gateway is going down", retry_after=5.0)
    if not gateway.condition.bus_up:
        raise Starting("the bus does not answer", retry_after=1.0)
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
    return {"status": "ready", "workers": workers}


@router.get("/metrics")
async def metrics(gateway: GatewayOf) -> Response:
    """Prometheus' text format."""
    return Response(gateway.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
