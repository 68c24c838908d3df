"""Who is asking: shared by all routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Request

from protocol.sessions import SessionRecord
from server.auth import bearer
from server.gateway import Gateway


def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayOf = Annotated[Gateway, Depends(gateway_of)]


async def tenant_of(
    gateway: GatewayOf,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
    x_api_key: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> str:
    """The caller's tenant. Raises Unauthorized, RateLimited."""
    tenant = gateway.keyring.tenant_of(bearer(authorization, x_api_key))
    gateway.requests.spend(tenant, gateway.settings.limits.requests_per_s)
    return tenant


Tenant = Annotated[str, Depends(tenant_of)]


async def record_of(session_id: str, tenant: Tenant, gateway: GatewayOf) -> SessionRecord:
    """The session in the path, closed or not. Raises NotFound."""
    return await gateway.sessions.get(tenant, session_id)


async def usable_record_of(session_id: str, tenant: Tenant, gateway: GatewayOf) -> SessionRecord:
    """The session in the path, if it takes anything. Raises NotFound, SessionClosed."""
    return await gateway.sessions.usable(tenant, session_id)


Record = Annotated[SessionRecord, Depends(record_of)]
UsableRecord = Annotated[SessionRecord, Depends(usable_record_of)]
