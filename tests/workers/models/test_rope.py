import pytest
import torch

from workers.models.rope import Rope, rotate

pytestmark = pytest.mark.unit

SECTIONS = (8, 12, 12)


def keys(count: int) -> torch.Tensor:
    return torch.randn(count, 2, 64, generator=torch.Generator().manual_seed(0))


def test_a_hand_computed_turn() -> None:
    rope = Rope(4, theta=100.0)
    turned = rotate(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), rope.rotation(torch.full((3, 1), 2)))
    (fast_cos, slow_cos), (fast_sin, slow_sin) = torch.tensor([2.0, 0.2]).cos(), torch.tensor([2.0, 0.2]).sin()
    expected = [
        *(fast_cos - 3 * fast_sin, 2 * slow_cos - 4 * slow_sin),
        *(3 * fast_cos + fast_sin, 4 * slow_cos + 2 * slow_sin),
    ]
    torch.testing.assert_close(turned[0, 0], torch.stack(expected))


def test_each_axis_turns_its_own_frequencies() -> None:
    rope, still = Rope(64, 1e4, SECTIONS), torch.zeros(3, 1, dtype=torch.long)
    ones = torch.ones(1, 1, 64)
    for axis, (first, last) in enumerate(((0, 8), (8, 20), (20, 32))):
        moved = still.clone()
        moved[axis] = 5
        touched = (rotate(ones, rope.rotation(moved)) != ones)[0, 0]
        expected = torch.zeros(32, dtype=torch.bool)
        expected[first:last] = True
        assert torch.equal(touched, expected.repeat(2))


def test_interleaved_axes_turn_in_turns_and_time_takes_the_rest() -> None:
    rope, still = Rope(20, 1e4, (5, 3, 2), interleaved=True), torch.zeros(3, 1, dtype=torch.long)
    ones = torch.ones(1, 1, 20)
    for axis, places in enumerate(((0, 3, 6, 8, 9), (1, 4, 7), (2, 5))):
        moved = still.clone()
        moved[axis] = 5
        touched = (rotate(ones, rope.rotation(moved)) != ones)[0, 0]
        assert touched.nonzero().flatten().tolist() == [*places, *(place + 10 for place in places)]


@pytest.mark.parametrize("delta", [-700, -1, 0, 3, 900])
def test_keys_turned_by_a_difference_stand_where_they_would_have_been_stored(delta: int) -> None:
    rope = Rope(64, 1e4, SECTIONS)
    positions = torch.randint(700, 1000, (3, 50), generator=torch.Generator().manual_seed(1))
    stored = rotate(keys(50), rope.rotation(positions))
    moved = rotate(stored, rope.rotation(torch.full((3, 50), delta)))
    torch.testing.assert_close(moved, rotate(keys(50), rope.rotation(positions + delta)), atol=1e-3, rtol=0)


def test_scores_depend_on_differences_alone() -> None:
    rope = Rope(64, 1e4, SECTIONS)
    positions = torch.randint(0, 100, (3, 20), generator=torch.Generator().manual_seed(1))
    near, far = (rotate(keys(20), rope.rotation(positions + shift))[:, 0] for shift in (0, 800))
    torch.testing.assert_close(near @ near.T, far @ far.T, atol=1e-2, rtol=0)


def test_half_precision_vectors_are_turned_in_full_precision() -> None:
    rope = Rope(64, 1e4, SECTIONS)
    rotation = rope.rotation(torch.randint(0, 4000, (3, 20)))
    half = keys(20).bfloat16()
    turned = rotate(half, rotation)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(half.float(), rotation).bfloat16())


def test_tables_made_without_gradients_serve_training() -> None:
    rope = Rope(64, 1e4, SECTIONS)
    positions = torch.zeros(3, 4, dtype=torch.long)
    with torch.inference_mode():
        rope.rotation(positions)
    vectors = keys(4).requires_grad_()
    (gradient,) = torch.autograd.grad(rotate(vectors, rope.rotation(positions)).sum(), vectors)
    assert torch.equal(gradient, torch.ones_like(gradient))
