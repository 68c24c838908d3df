import itertools

import pytest

from training.world.director import FORGET, direct

pytestmark = pytest.mark.unit
SEEDS = range(30)


@pytest.mark.parametrize("seed", [0, 7, 123456789])
def test_a_seed_is_a_script(seed: int) -> None:
    assert direct(seed, 40.0) == direct(seed, 40.0)
    assert direct(seed, 40.0) != direct(seed + 1, 40.0)


@pytest.mark.parametrize("gap", [2.4, 4.0, 4.8])
def test_something_changes_every_ten_seconds(gap: float) -> None:
    for seed in SEEDS:
        script = direct(seed, 60.0, gap)
        blinks = [blink for actor in script.actors for blink in actor.blinks]
        times = sorted([0.0, *(event.start for event in script.events if 0 <= event.start < 60), *blinks, 60.0])
        assert max(later - earlier for earlier, later in itertools.pairwise(times)) <= 10.0, seed


def test_four_things_and_more_pass_through_a_scene() -> None:
    assert min(len(direct(seed, 45.0).actors) for seed in SEEDS) >= 4


def test_a_name_stands_for_one_thing_at_a_time() -> None:
    """And a thing that left is not back before it is past asking about."""
    for seed in SEEDS:
        lone = [actor for actor in direct(seed, 120.0).actors if actor.group is None and actor.thing.family != "card"]
        for a, b in itertools.combinations(lone, 2):
            if a.thing == b.thing:
                first, second = sorted((a, b), key=lambda actor: actor.enters[0])
                assert second.enters[0] - first.leaves[1] > FORGET - 2.0, (seed, a.thing.name)


def test_a_cut_clears_the_scene() -> None:
    script = direct(3, 40.0, cuts=(20.0,))
    assert [since for since, _ in script.grounds] == [0.0, 20.0]
    assert not [actor for actor in script.actors if actor.enters[0] < 19.9 and actor.leaves[0] > 20.0]
    assert [event.deed for event in script.events].count("cut") == 1
