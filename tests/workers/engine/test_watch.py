"""The audit at every compaction holds while everything goes on at once, and notices whatever is not as it should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.workers.engine.rig import Rig
from workers.engine.watch import Auditor
from workers.memory.pool import IntegrityError

pytestmark = pytest.mark.unit

NAMES = ("a", "b", "c")


def audited(rig: Callable[..., Rig], policy: str = "infinipot") -> tuple[Rig, Auditor]:
    """Three sessions that have had to forget, as an auditor watched."""
    r = rig(pool_tokens=2_048, head_groups=2, trained_length=256, check_books=True)
    for name in NAMES:
        r.open(name, policy=policy, budget_tokens=400)
    show(r, 0, 30)
    auditor = r.engine._watch
    assert isinstance(auditor, Auditor)
    return r, auditor


def show(r: Rig, first: int, last: int) -> None:
    for n in range(first, last):
        for place, name in enumerate(NAMES):
            r.push(n * 1000, name, seed=100 * n + place)
        if n % 5 == 2:
            name = NAMES[n % 3]
            r.ask(f"{name}{n}", name, at_ms=n * 1000, max_tokens=9, mode=["frozen", "live"][n % 2], remember=n % 3 == 0)
        r.run(steps=2, check=False)
    r.run(check=False)


@pytest.mark.parametrize("policy", ["infinipot", "window"])
def test_books_balance_at_every_compaction(rig: Callable[..., Rig], policy: str) -> None:
    r, auditor = audited(rig, policy)
    assert auditor.compactions > 5
    assert set(r.outcomes()) == {"prefilled"}


def test_without_the_switch_nobody_audits(rig: Callable[..., Rig]) -> None:
    assert not isinstance(rig().engine._watch, Auditor)


def leaked(r: Rig) -> None:
    r.engine.sessions["b"].trunk.share.take(1)


def held_twice(r: Rig) -> None:
    trunk = r.engine.sessions["b"].trunk
    trunk.share.hold(trunk.blocks[-1].pages)


def freed_in_use(r: Rig) -> None:
    share = r.engine.sessions["b"].trunk.share
    share.pool.references[share.ids[0]] -= 1


def anothers_page(r: Rig) -> None:
    ours, theirs = (r.engine.sessions[name].trunk for name in ("b", "c"))
    block = ours.blocks[-1]
    pages = np.concatenate([block.pages[:, :, :-1], theirs.blocks[-1].pages[:, :, -1:]], axis=-1)
    ours._become((*ours.blocks[:-1], replace(block, pages=pages)))


def another_token(r: Rig) -> None:
    trunk = r.engine.sessions["b"].trunk
    slot = int(trunk.blocks[-1].pages[0, 0, 0]) * r.engine.pool.page_size
    r.engine.pool.token_ids[1, 1, slot] += 1


@pytest.mark.parametrize("wrong", [leaked, held_twice, freed_in_use, anothers_page, another_token])
def test_what_does_not_balance_is_noticed_at_the_next_compaction(
    rig: Callable[..., Rig], wrong: Callable[[Rig], None]
) -> None:
    r, auditor = audited(rig)
    before = auditor.compactions
    wrong(r)
    with pytest.raises(IntegrityError):
        show(r, 30, 44)
    assert auditor.compactions <= before + len(NAMES)
