"""Re-anchoring: distances, not absolute positions, leave the trained range, so the gaps that eviction left are closed.

A gap lies between two blocks where the second starts beyond the position after the largest before it. Every block moves
down by the gaps before it, its turn counted from the base that its keys were stored with; no key is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workers.memory.chain import Block


def closed(blocks: Sequence[Block], coming: int) -> tuple[tuple[Block, ...], int]:
    """The blocks without gaps between them, and by how much whatever comes after them has to move down.

    `coming` is the smallest position that tokens to come will get.
    """
    anchored: list[Block] = []
    moved, reached = 0, 0
    for block in blocks:
        low, high = block.low - block.turn - moved, block.high - block.turn - moved
        gap = max(0, low - reached)
        moved += gap
        reached = max(reached, high - gap + 1)
        anchored.append(replace(block, turn=block.turn + moved) if moved else block)
    return tuple(anchored), moved + max(0, coming - moved - reached)
