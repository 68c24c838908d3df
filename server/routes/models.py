"""REST: the models that can be opened."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from server.events import model_body
from server.routes.access import GatewayOf, Tenant
from server.routes.schema import MODEL_EXAMPLE, shown

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=shown({"object": "list", "data": [MODEL_EXAMPLE]}, "Models that a worker serves now."))
async def list_models(tenant: Tenant, gateway: GatewayOf) -> dict[str, Any]:
    """All models served now, with what a session may ask of each."""
    await gateway.board.refresh()
    return {"object": "list", "data": [model_body(card) for card in gateway.board.models()]}
