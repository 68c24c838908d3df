"""What is tested on a GPU is tested without one too, by the reference, and says why it is skipped."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.unit

# Tests of what only a GPU has, each with the test of its module that asks the same of the reference.
COUNTERPARTS = {
    "test_arms_on_a_gpu": "test_arms_of_several_calls_stand_in_one_file",
    "test_cuda_runs_without_waiting_and_agrees_with_the_processor": "test_half_precision_stays_close",
    "test_cuda_agrees_with_the_processor_and_with_itself": "test_each_token_goes_through_its_own_experts",
    "test_dropping_makes_the_host_wait_for_nothing": "test_every_frame_is_told_about_once",
    "test_half_precision_on_a_gpu_is_for_flashinfer": "test_the_pool_decides_which_implementation_serves_it",
    "test_single_tokens_have_a_kernel_of_their_own_on_hopper": "test_a_graph_is_not_planned_for_what_it_cannot_hold",
    "test_steps_make_the_host_wait_for_nothing_but_tokens": "test_being_ahead_changes_nothing",
}


def functions(request: pytest.FixtureRequest) -> list[pytest.Function]:
    """The tests of this run."""
    return [item for item in request.session.items if isinstance(item, pytest.Function)]


def test_who_needs_a_gpu_says_so_where_there_is_none(request: pytest.FixtureRequest) -> None:
    for item in functions(request):
        if item.get_closest_marker("gpu"):
            reasons = [marker.kwargs.get("reason") for marker in item.iter_markers("skipif")]
            assert any(reasons), f"{item.nodeid} needs a GPU and does not say so where there is none"


def test_what_runs_on_a_gpu_runs_on_the_reference_path(request: pytest.FixtureRequest) -> None:
    everywhere = {(item.path, item.originalname) for item in functions(request) if not item.get_closest_marker("gpu")}
    modules = {path for path, _ in everywhere}
    for item in functions(request):
        if item.get_closest_marker("gpu") and item.path in modules:
            wanted = COUNTERPARTS.get(item.originalname, item.originalname)
            assert (item.path, wanted) in everywhere, f"{item.nodeid} has no counterpart without a GPU"
