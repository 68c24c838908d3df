"""The page pool and its books."""

from __future__ import annotations

import numpy as np
import pytest

from workers.core import KVShape
from workers.memory.pool import NO_TOKEN, IntegrityError, PagePool, PoolExhausted

pytestmark = pytest.mark.unit

SHAPE = KVShape(layers=2, groups=2, heads=1, head_dim=4)


@pytest.fixture
def pool() -> PagePool:
    return PagePool(SHAPE, pages=12, page_size=4)


def test_sizes_add_up(pool: PagePool) -> None:
    assert pool.page_bytes == 4 * 2 * 2 * 2 * 1 * 4 * 4
    assert pool.store.keys.shape == (2, 2, 48, 1, 4)


def test_a_share_gives_each_page_once(pool: PagePool) -> None:
    share = pool.open(5)
    first, second = share.take(2), share.take(3)
    assert first.shape == (1, 1, 2)
    assert sorted([*first[0, 0], *second[0, 0]]) == sorted(share.ids)
    assert (share.held, share.free) == (5, 0)
    with pytest.raises(PoolExhausted, match="1 pages asked for, 0 of 5 are free"):
        share.take(1)
    pool.check_integrity()


def test_shares_never_meet_in_a_page(pool: PagePool) -> None:
    shares = [pool.open(4), pool.open(3), pool.open(5)]
    owned = np.concatenate([share.take(share.size)[0, 0] for share in shares])
    assert sorted(owned) == list(range(12))
    with pytest.raises(PoolExhausted):
        pool.open(1)
    pool.check_integrity()


def test_a_page_is_free_when_the_last_hold_is_gone(pool: PagePool) -> None:
    share = pool.open(3)
    pages = share.take(2)
    share.hold(pages[:, :, :1])
    share.drop(pages)
    assert share.held == 1
    pool.check_integrity()
    share.check_holds([pages[:, :, :1]])
    share.drop(pages[:, :, :1])
    assert share.held == 0
    pool.check_integrity()


def test_a_share_takes_neighbours_where_it_can_and_what_there_is_where_it_cannot(pool: PagePool) -> None:
    shares = [pool.open(3) for _ in range(4)]
    pool.close(shares[1])
    pool.close(shares[3])
    assert pool.open(2).ids.tolist() == [3, 4]
    assert pool.open(4).ids.tolist() == [5, 9, 10, 11]
    pool.check_integrity()


def test_closing_a_share_leaves_nothing_of_it(pool: PagePool) -> None:
    share = pool.open(3)
    pages = share.take(2)
    slots = pool.slots_of(pages)
    pool.write_ids(slots, np.arange(8, dtype=np.int32))
    assert pool.read_ids(slots)[1, 1].tolist() == list(range(8))
    pool.close(share)
    assert pool.pages_used == pool.pages_reserved == 0
    assert (pool.token_ids == NO_TOKEN).all()
    pool.check_integrity()


def test_wrong_books_are_noticed(pool: PagePool) -> None:
    share, other = pool.open(3), pool.open(3)
    pages = share.take(2)
    with pytest.raises(IntegrityError, match="somebody unknown"):
        share.check_holds([])
    pool.references[share.ids[0]] = 0
    with pytest.raises(IntegrityError):
        pool.check_integrity()
    pool.references[share.ids[0]] = 1
    pool.check_integrity()
    other.ids[0] = pages[0, 0, 0]
    with pytest.raises(IntegrityError):
        pool.check_integrity()
