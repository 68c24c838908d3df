import numpy as np
import pytest
import torch

from training.world.artefacts import _block_cosines, degrade
from training.world.cast import cast
from training.world.catalogue import COLOURS, of_family, things
from training.world.director import direct
from training.world.labels import NOTHING, label
from training.world.renderer import Renderer
from training.world.script import SIDE, Actor, Camera, Script
from training.world.textures import textures

pytestmark = pytest.mark.unit
STILL = Camera(0.0, (0.0, 0.0), 1.0, 0.0, 0.0, 0.0)
SQUARE = next(thing for thing in of_family("shape") if thing.name == "square")


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer.on(torch.device("cpu"))


def square(x: float, y: float, colour: str, depth: float = 0.0) -> Actor:
    actor = Actor(SQUARE, 56.0, ([0.0], [x], [y]), (-1.0, -1.0), depth=depth)
    actor.colours.append((-1.0, colour))
    return actor


def drawn(renderer: Renderer, *actors: Actor, times: tuple[float, ...] = (1.0,)) -> torch.Tensor:
    shown = cast(Script(0, 10.0, actors, (), ((0.0, 0),), STILL), np.array(times))
    return renderer.draw(*(torch.from_numpy(part) for part in (shown.layers, shown.ground, shown.views)))


def test_things_stand_where_the_script_says(renderer: Renderer) -> None:
    empty, shown = drawn(renderer)[0], drawn(renderer, square(60, 150, "red"))[0]
    rows, columns = torch.nonzero((shown - empty).abs().sum(0) > 0.05).float().mean(0)
    assert abs(float(columns) + 0.5 - 60) < 1
    assert abs(float(rows) + 0.5 - 150) < 1
    red = torch.tensor(COLOURS["red"]) / 255
    assert torch.allclose(shown[:, 150, 60], red, atol=0.02)


def test_what_is_in_front_covers_what_is_behind(renderer: Renderer) -> None:
    shown = drawn(renderer, square(100, 100, "red", 2.0), square(110, 100, "blue", 1.0))[0]
    assert torch.allclose(shown[:, 100, 105], torch.tensor(COLOURS["red"]) / 255, atol=0.02)


def test_a_batch_is_drawn_like_its_pictures_one_by_one(renderer: Renderer) -> None:
    script, times = direct(11, 30.0), np.arange(0.0, 30.0, 3.0)
    together = cast(script, times)
    batch = renderer.draw(*(torch.from_numpy(p) for p in (together.layers, together.ground, together.views)))
    for index, time in enumerate(times):
        alone = cast(script, np.array([time]))
        single = renderer.draw(*(torch.from_numpy(p) for p in (alone.layers, alone.ground, alone.views)))
        assert torch.equal(batch[index], single[0])


def test_things_beyond_the_edge_are_cut_off(renderer: Renderer) -> None:
    shown = drawn(renderer, square(0, SIDE, "red"), square(SIDE + 300, 50, "blue"))
    assert shown.shape == (1, 3, SIDE, SIDE)
    assert torch.isfinite(shown).all()


def test_every_class_has_a_picture_of_its_own() -> None:
    looks = textures().flatten(1).float()
    assert len(looks) == len(things())
    assert (looks[:, -96 * 96 :].amax(1) == 255).all()
    assert len({row.numpy().tobytes() for row in looks}) == len(looks)


def test_block_cosines_are_orthonormal() -> None:
    basis = _block_cosines(24)
    assert torch.allclose(basis @ basis.T, torch.eye(24), atol=1e-5)


def test_artefacts_spoil_but_do_not_destroy(renderer: Renderer) -> None:
    sharp = drawn(renderer, square(60, 150, "red"), times=(1.0,) * 16)
    spoilt = degrade(sharp, torch.full((16,), 0.02), torch.Generator().manual_seed(1))
    errors = (spoilt - sharp).abs().mean((1, 2, 3))
    assert spoilt.shape == sharp.shape
    assert float(errors.min()) > 0.001
    assert float(errors.max()) < 0.1


def test_labels_remember_who_was_there_before() -> None:
    first, second = square(102, 102, "red"), square(102, 102, "blue")
    first.leaves, second.enters = (5.0, 5.0), (5.0, 5.0)
    second.thing = of_family("sprite")[0]
    script, times = Script(0, 10.0, (first, second), (), ((0.0, 0),), STILL), np.arange(10.0)
    labels = label(script, cast(script, times), times, 1.0)
    middle = 3 * 8 + 3
    assert labels.now[:, middle].tolist() == [SQUARE.number] * 5 + [0] * 5
    assert labels.before[:, middle].tolist() == [NOTHING] * 5 + [SQUARE.number] * 5
    assert labels.age[5:8, middle].tolist() == [0, 1, 2]
    assert set(labels.now[:, 0].tolist()) == {NOTHING}
