"""Policy `window`: the header and the newest frames and texts (StreamingLLM, arXiv:2309.17453, over whole frames)."""

from __future__ import annotations

import numpy as np

from workers.memory.policy import Contents, Keep


class Window:
    name = "window"

    def keep(self, contents: Contents, pages: int) -> Keep:
        """The header, and of the rest, newest first, whole blocks until one does not fit."""
        rest = np.flatnonzero(~contents.header)
        room = pages - int(contents.pages[contents.header].sum())
        fits = np.cumsum(contents.pages[rest][::-1])[::-1] <= room
        whole = contents.header.copy()
        whole[rest] = fits
        return Keep(whole)
