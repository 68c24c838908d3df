"""Policy `infinipot`: old frames live on in their most telling tokens, chosen anew in every layer and head group.

After InfiniPot-V (arXiv:2506.15745): half of the survivors are those whose keys are least like the newest frames' at
the same place (temporal redundancy), the others those with the largest values (value norm). Two things differ. Keys
are compared as they were before rotation, since segments stand at different bases. And survivors are kept in
generations: what leaves the window of whole frames joins the newest core until that is full; when there is no room for
another, the two oldest are thinned out into one. So a core's pages never change, and the past fades the older it is.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from workers.core import sent
from workers.memory.policy import Candidates, Contents, Keep

TEXT = 1 / 8  # of the room: texts, newest first
WINDOW = 1 / 2  # of what they leave: whole frames, newest first
CORE = 3 / 8  # of the same: survivors; the rest is for the frames that come before the next compaction
SURVIVING = 1 / 2  # of a frame that leaves the window
GENERATIONS = 3
FADING = 1 / 4  # of the two oldest generations, at least, when they are thinned out into one
NOVEL = 1 / 2  # of the survivors
MARKS = 2  # tokens of a text that only closes a segment and opens one


class InfiniPot:
    name = "infinipot"

    def keep(self, contents: Contents, pages: int) -> Keep:
        """Header, newest texts and newest frames whole; of what is older, survivors."""
        size = contents.tokens
        room = pages - int(contents.pages[contents.header].sum())
        texts = _newest(contents.texts, contents.pages, room * TEXT)
        room -= int(contents.pages[texts].sum())
        window = _newest(contents.frames, contents.pages, room * WINDOW, least=1)
        limit = int(room * CORE) * contents.page_size
        leaving, cores = contents.frames & ~window, np.flatnonzero(contents.cores)
        held, fresh = int(size[cores].sum()), int(size[leaving].sum() * SURVIVING)
        whole = np.ones(len(size), dtype=np.bool_)
        full = limit // GENERATIONS
        if held + fresh > limit and (len(cores) > 1 or held > full):
            whole[cores[:2]] = False
            oldest = int(size[cores[:2]].sum())
            return _thinned(contents, whole, oldest - max(held + fresh - limit, int(oldest * FADING)))
        if len(cores) and not fresh and held <= limit:
            whole[cores[0]] = False
            return Keep(whole)
        whole &= ~leaving & ~(contents.texts & ~texts) & ~(contents.texts & (size <= MARKS) & _before(window))
        if len(cores) and size[cores[-1]] <= full:
            whole[cores[-1]] = False
            fresh, held = fresh + int(size[cores[-1]]), held - int(size[cores[-1]])
        return _thinned(contents, whole, min(fresh, limit - held))


def rank(candidates: Candidates) -> Tensor:
    """Scores [layers, groups, n]: above all others the most novel, half of those that survive; then by value norm."""
    text = candidates.patches < 0
    novelty = candidates.padded(_novelty(candidates).masked_fill(text, -torch.inf))
    norms = candidates.mean(candidates.values.float().norm(dim=-1)).masked_fill(text, -torch.inf)
    order = novelty.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    quotas = sent(np.array([int(count * NOVEL) for count in candidates.counts]), order.device)
    novel = torch.empty_like(order).scatter_(-1, order, places) < quotas[:, None, None, None]
    scores: Tensor = norms + torch.where(candidates.joined(novel), norms.amax() + 1, 0)
    return scores


def _novelty(candidates: Candidates) -> Tensor:
    """How unlike the newest frames at its place each key is, [layers, groups, n]: minus the mean cosine.

    Where they have nothing at that place, as where nothing changed, a key is like none.
    """
    keys, recent = (normalize(each.float(), dim=-1) for each in (candidates.keys, candidates.recent_keys))
    layers, groups, _, heads, dim = keys.shape
    cells = len(candidates.sizes) * candidates.places
    at = candidates.recent_trunk * candidates.places + candidates.recent_patches
    sums = keys.new_zeros(layers, groups, cells, heads, dim).index_add_(2, at, recent)
    often = keys.new_zeros(cells).index_add_(0, at, keys.new_ones(len(at))).clamp_(min=1)
    cell = candidates.trunk * candidates.places + candidates.patches.clamp(min=0)
    alike = candidates.mean((keys * sums.gather(2, cell[..., None, None].expand_as(keys))).sum(dim=-1))
    return -alike / often[cell]


def _newest(blocks: NDArray[np.bool_], pages: NDArray[np.int64], room: float, least: int = 0) -> NDArray[np.bool_]:
    """Those of `blocks` that fit into `room` pages, newest first and without gaps, and `least` of them anyway."""
    places = np.flatnonzero(blocks)[::-1]
    fits = (np.cumsum(pages[places]) <= room) | (np.arange(len(places)) < least)
    kept = np.zeros_like(blocks)
    kept[places[fits]] = True
    return kept


def _before(blocks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """All that comes before the first of `blocks`."""
    return np.asarray(np.cumsum(blocks) == 0)


def _thinned(contents: Contents, whole: NDArray[np.bool_], survivors: int) -> Keep:
    """Survivors that fill whole pages, at most so many."""
    return Keep(whole, max(0, survivors // contents.page_size * contents.page_size), rank)
