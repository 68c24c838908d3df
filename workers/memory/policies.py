"""The policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from workers.memory.full import Full
from workers.memory.infinipot import InfiniPot
from workers.memory.policy import Policy
from workers.memory.window import Window

POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {policy.name: policy for policy in (Window, InfiniPot, Full)}
)
