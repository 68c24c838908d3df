"""Policy `window`: the header and the newest frames and texts (StreamingLLM, arXiv:2309.17453, over whole frames)."""

from __future__ import annotations

import numpy as np

from workers.memory.policy import Contents, Keep


class Window:
    name = "window"

    def keep(self, contents: Contents, pages: int) -> Keep:
        """The header, and of the rest, newest first, whole blocks until one does not fit."""
        whole, held = contents.header, contents.pages
        rest = np.flatnonzero(~whole)
        room = pages - int(held[whole].sum())
        whole[rest] = np.cumsum(held[rest][::-1])[::-1] <= room
        return Keep(whole)
