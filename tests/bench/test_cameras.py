"""The judgement of the cameras' run: what counts as lost, and how old a picture was."""

import pytest

from bench.cameras import Camera, CamerasRun, Load
from bench.footage import footage

pytestmark = pytest.mark.unit

LOAD = Load(sessions=1, fps_in=15, fps_out=1.0, kilobits_per_s=300, worker="none", seed=1)


@pytest.fixture(scope="module")
def camera() -> Camera:
    return Camera(footage(1, width=160, height=128, fps=15, seconds=4, kilobits_per_s=300), 1, LOAD)


def test_ages_count_from_the_sending_of_the_very_unit(camera: Camera) -> None:
    camera.sent_at = [100 + number / 15 for number in range(31)]
    assert camera.age_ms(2000, 102.25) == pytest.approx(250)


@pytest.mark.parametrize(("units", "expected"), [(1, 1), (29, 2), (30, 3), (31, 3), (44, 3), (45, 4)])
def test_a_picture_that_comes_a_moment_early_is_expected(camera: Camera, units: int, expected: int) -> None:
    camera.sent_at = [100 + number / 15 for number in range(units)]
    assert camera.expected == expected


def test_footage_can_be_begun_at_each_of_its_key_frames() -> None:
    clip = footage(2, width=160, height=128, fps=15, seconds=4, kilobits_per_s=300)
    assert len(clip.units) == 60
    assert [clip.key_unit(number) for number in range(3)] == [0, 30, 0]
    for number in (0, 1):
        assert b"\x00\x00\x01\x67" in clip.units[clip.key_unit(number)]


def test_what_did_not_come_is_lost() -> None:
    run = CamerasRun(
        ages_ms=[10.0, 30.0, 20.0], expected=4, seconds=10.0, cpu_s={"gateway": 2.5}, memory=[(1.0, 2**20)]
    )
    figures = run.figures()
    assert (figures["lost"], figures["age_p99_ms"], figures["cores_gateway"]) == (1, 30.0, 0.25)
