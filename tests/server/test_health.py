"""Conditions of a stream: when they begin, when they are over, and that nothing flickers."""

import numpy as np
import pytest

from server.media.health import Change, StreamHealth
from server.media.jobs import Look, PictureOut, SoundOut
from server.media.looks import POINTS

pytestmark = pytest.mark.unit

RNG = np.random.default_rng(5)
SCENE = RNG.integers(40, 200, POINTS * POINTS)


def looking(noise: float, *, level: int | None = None, blocks: float = 1.0, damaged: bool = False) -> Look:
    base = SCENE if level is None else np.full(POINTS * POINTS, level)
    points = (base + RNG.normal(0, noise, base.shape)).round().clip(0, 255).astype(np.uint8)
    return Look(points.tobytes(), blocks, damaged)


def shown(look: Look | None, t_ms: int, track: int = 0) -> PictureOut:
    return PictureOut(track=track, t_ms=t_ms, width=8, height=8, jpeg=b"", look=look)


def heard(pcm: bytes, t_ms: int, track: int = 1) -> SoundOut:
    return SoundOut(track=track, t_ms=t_ms, pcm=pcm)


def watch(health: StreamHealth, looks: list[Look], start_s: int = 0) -> list[Change]:
    return [change for n, look in enumerate(looks) for change in health.observe(shown(look, 1000 * (start_s + n)))]


def test_a_still_scene_of_a_live_camera_is_well() -> None:
    health = StreamHealth()
    assert watch(health, [looking(2.0) for _ in range(60)]) == []
    assert health.conditions == {}


def test_a_frozen_picture_begins_after_ten_seconds_and_ends_with_the_next_live_one() -> None:
    health, one = StreamHealth(), looking(2.0)
    assert watch(health, [looking(2.0), *[one] * 30, looking(2.0), looking(2.0)]) == [
        Change("frozen", 0, True, 2000, 12_000),
        Change("frozen", 0, False, 2000, 31_000),
    ]


def test_what_lies_between_the_bounds_neither_begins_nor_ends() -> None:
    """Differences of 0.8 grey levels: too much to begin, too little to end."""
    health = StreamHealth()
    restless = [looking(0.75) for _ in range(30)]
    assert watch(health, restless) == []
    still = looking(0.0)
    assert [change.begun for change in watch(health, [still] * 20, 100)] == [True]
    assert watch(health, restless, 200) == []
    assert health.conditions == {"frozen": [0]}


def test_a_black_picture() -> None:
    health = StreamHealth()
    changes = watch(health, [looking(2), *[looking(3, level=17) for _ in range(10)], looking(2)])
    assert changes == [Change("black", 0, True, 1000, 6000), Change("black", 0, False, 1000, 11_000)]


@pytest.mark.parametrize("sign", [{"blocks": 4.0}, {"damaged": True}])
def test_a_blocky_picture_and_one_that_was_made_up(sign: dict[str, float]) -> None:
    health = StreamHealth()
    bad = [looking(2, blocks=float(sign.get("blocks", 1)), damaged=bool(sign.get("damaged"))) for _ in range(7)]
    assert [(c.condition, c.begun, c.at_ms) for c in watch(health, [*bad, looking(2)])] == [
        ("blocky", True, 5000),
        ("blocky", False, 7000),
    ]
    assert watch(health, [bad[0], looking(2)] * 20, 20) == [], "now and then one is no condition"


def test_two_pictures_far_apart_say_nothing_of_what_was_between() -> None:
    health, one = StreamHealth(), looking(0.0)
    changes = [change for t_ms in (0, 60_000, 120_000) for change in health.observe(shown(one, t_ms))]
    assert changes == []


def test_silence_by_track() -> None:
    health, hush = StreamHealth(), np.full(1600, 20, "<i2").tobytes()
    word = (3000 * np.sin(np.arange(1600) / 9)).astype("<i2").tobytes()
    changes = []
    for n in range(150):
        changes += health.observe(heard(word if n == 130 else hush, 100 * n))
        changes += health.observe(heard(word if n % 20 == 0 else hush, 100 * n, 2))
    assert changes == [Change("silent", 1, True, 0, 10_000), Change("silent", 1, False, 0, 13_000)]
    assert health.observe(heard(b"", 20_000)) == []
    assert health.observe(heard(np.full(10, -32768, "<i2").tobytes(), 21_000)) == []


def test_tracks_have_conditions_of_their_own() -> None:
    health, dark = StreamHealth(), looking(3, level=10)
    for n in range(10):
        health.observe(shown(dark, 1000 * n, 3))
        health.observe(shown(looking(2), 1000 * n, 4))
    assert health.conditions == {"black": [3]}
    assert health.observe(shown(None, 0, 5)) == []
