"""The policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from workers.memory import infinipot
from workers.memory.full import Full
from workers.memory.infinipot import InfiniPot
from workers.memory.policy import Policy, Rank
from workers.memory.window import Window

POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {policy.name: policy for policy in (Window, InfiniPot, Full)}
)

RANKS: Mapping[str, Rank] = MappingProxyType({InfiniPot.name: infinipot.rank})


def rank_name(rank: Rank) -> str:
    """By what name of RANKS others know a rank. ValueError if they do not."""
    for name, known in RANKS.items():
        if known is rank:
            return name
    raise ValueError(f"{rank} is no rank that a policy is known by")
