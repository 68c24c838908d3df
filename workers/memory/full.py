"""Policy `full`: everything stays. The reference, for as long as the budget lasts."""

from __future__ import annotations

import numpy as np

from workers.memory.policy import Contents, Keep


class Full:
    name = "full"

    def keep(self, contents: Contents, pages: int) -> Keep:
        """Every block, whether it fits or not."""
        return Keep(np.ones(len(contents.blocks), dtype=np.bool_))
