from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.feed import Batch, Studio
from training.lesson import Syllabus, Teacher, stacked
from training.masks import dense_attention
from training.muon import Muon, orthogonalised
from training.stages import STAGES
from training.state import load_state, save_state
from training.student import Student
from training.train import planned, schedule
from training.world.questions import KINDS
from workers.models.config import ModelConfig
from workers.models.families import QWEN25VL, read_config
from workers.models.pixels import PixelFormat
from workers.models.tokenizer import Tokenizer

pytestmark = pytest.mark.unit
MINI = Path(__file__).parents[2] / "models" / "mini"
SYLLABUS = Syllabus(3, 6, 512, (1.0,), (3, 3), tuple((kind, 1.0) for kind in KINDS))


def small() -> ModelConfig:
    """The bundled model's shape, but thin."""
    config = read_config(MINI)
    text = replace(config.text, hidden_size=64, intermediate_size=96, layers=4, heads=2, kv_heads=1, head_dim=32)
    text = replace(text, mrope_section=(4, 6, 6))
    vision = replace(config.vision, depth=2, hidden_size=32, intermediate_size=48, heads=2, out_hidden_size=64)
    return ModelConfig(config.family, text, replace(vision, full_attention_blocks=frozenset({1})))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(MINI)


@pytest.fixture(scope="module")
def pixels() -> PixelFormat:
    return PixelFormat.from_folder(MINI, small().vision, QWEN25VL.default_pixels)


@pytest.fixture(scope="module")
def batch(tokenizer: Tokenizer) -> Batch:
    teacher = Teacher(tokenizer, 2.0)
    arrays = stacked([teacher.lesson(seed, SYLLABUS) for seed in (1, 2)])
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def pictures(batch: Batch) -> Tensor:
    return Studio(torch.device("cpu"), 1).pictures(batch)


def new_student(pixels: PixelFormat, tokenizer: Tokenizer) -> Student:
    torch.manual_seed(3)
    return Student(small(), pixels, tokenizer)


def new_optimizers(student: Student) -> list[torch.optim.Optimizer]:
    matrices = [p for p in student.parameters() if p.ndim == 2]
    rest = [p for p in student.parameters() if p.ndim != 2]
    return [Muon(matrices, lr=3e-3), torch.optim.AdamW(rest, lr=3e-3)]


def update(student: Student, optimizers: list[torch.optim.Optimizer], pictures: Tensor, batch: Batch) -> float:
    outcome = student(pictures, batch, dense_attention(batch))
    torch.autograd.backward(outcome.total)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return float(outcome.total.detach())


def test_the_loss_falls_on_two_examples(
    pixels: PixelFormat, tokenizer: Tokenizer, batch: Batch, pictures: Tensor
) -> None:
    student = new_student(pixels, tokenizer)
    optimizers = new_optimizers(student)
    losses = [update(student, optimizers, pictures, batch) for _ in range(12)]
    assert losses[-1] < 0.75 * losses[0]


def test_a_resumed_training_goes_on_as_if_never_interrupted(
    pixels: PixelFormat, tokenizer: Tokenizer, batch: Batch, pictures: Tensor, tmp_path: Path
) -> None:
    """But for the optimizers' memory, which is kept in half the bytes."""
    student = new_student(pixels, tokenizer)
    optimizers = new_optimizers(student)
    for _ in range(2):
        update(student, optimizers, pictures, batch)
    save_state(tmp_path, 2, student, optimizers)
    there = update(student, optimizers, pictures, batch)
    ahead = update(student, optimizers, pictures, batch)

    other = new_student(pixels, tokenizer)
    resumed = new_optimizers(other)
    assert load_state(tmp_path, other, resumed) == 2
    assert update(other, resumed, pictures, batch) == pytest.approx(there, abs=1e-5)
    assert update(other, resumed, pictures, batch) == pytest.approx(ahead, rel=2e-3)


def test_what_a_branch_does_not_see_does_not_change_it(
    pixels: PixelFormat, tokenizer: Tokenizer, batch: Batch, pictures: Tensor
) -> None:
    """Later pictures than a branch's own leave its answer alone."""
    student = new_student(pixels, tokenizer).eval()
    changed = pictures.clone()
    changed[2::3] = 0.5  # the last of three pictures of each example
    with torch.no_grad():
        hits = [student(shown, batch, dense_attention(batch)).answer for shown in (pictures, changed)]
    assert hits[0] != hits[1]
    early = {name: array.clone() for name, array in batch.items()}
    early["target"] = torch.where(early["tick"] < 2, early["target"], -100)
    assert (early["target"] != -100).any()
    with torch.no_grad():
        answers = [student(shown, early, dense_attention(early)).answer for shown in (pictures, changed)]
    assert torch.equal(answers[0], answers[1])


def test_patches_are_those_of_the_pixel_format(pixels: PixelFormat, tokenizer: Tokenizer) -> None:
    whole = torch.randint(0, 256, (2, 224, 224, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    ours = new_student(pixels, tokenizer)._patches(whole.permute(0, 3, 1, 2).float() / 255)
    assert torch.allclose(ours, pixels.patches(whole), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 24, 6), (2, 6, 24)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalised(matrices).float())
    assert float(values.min()) > 0.4
    assert float(values.max()) < 1.4


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    rates = [schedule(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[100:500] == [1.0] * 400
    assert rates[999] < 1e-4


def test_a_plan_has_every_stage_in_turn() -> None:
    plan = planned([1, 2, 3, 4])
    assert [plan.count(stage) for stage in STAGES] == [1, 2, 3, 4]
    assert [stage.name for stage in dict.fromkeys(plan)] == ["pictures", "clips", "streams", "minutes"]
    assert all(stage.syllabus.length % 128 == 0 for stage in STAGES)  # what block masks are made of
