import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from workers.models.checkpoint import load_model, open_checkpoint, save_model
from workers.models.errors import CheckpointError, TokenizerError
from workers.models.families import read_config
from workers.models.model import VisionLanguageModel
from workers.models.storage import dequantised, quantised

pytestmark = pytest.mark.unit

STACK = "model.language_model.layers.0.mlp.experts"


@pytest.fixture(scope="module")
def source(tiny_qwen25vl: Callable[..., Any]) -> Path:
    folder: Path = tiny_qwen25vl(seed=5).folder
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return shutil.copytree(source, tmp_path / "model")


def model_of(folder: Path) -> VisionLanguageModel:
    return load_model(folder, read_config(folder))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def same(one: VisionLanguageModel, other: VisionLanguageModel) -> bool:
    return all(torch.equal(mine, other.get_parameter(name)) for name, mine in one.named_parameters())


def test_names_as_transformers_nests_them_are_understood(folder: Path) -> None:
    before = model_of(folder)

    def nest(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            if not name.startswith("lm_head"):
                nested = name.replace("model.", "model.language_model.").replace("visual.", "model.visual.")
                tensors[nested] = tensors.pop(name)

    rewrite(folder, nest)
    assert same(model_of(folder), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("model.layers.1.self_attn.k_proj.bias"),
            r"1 missing \(model\.layers\.1\.self_attn\.k_proj\.bias",
        ),
        (lambda t: t.update(extra=torch.zeros(2)), r"1 unexpected \(extra\)"),
        (lambda t: t.update({"model.norm.weight": torch.ones(4)}), r"model\.norm\.weight has shape \(4,\)"),
        (lambda t: [t.pop(n) for n in list(t) if "blocks" in n], r"missing \(visual\.blocks\.0.*, \.\.\.\)"),
        (lambda t: t.update({"model.norm.weight": torch.ones(128, dtype=torch.int32)}), "unsupported type I32"),
        (lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.int8)}), r"lacks lm_head\.weight\.scale"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    folder: Path, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message):
        model_of(folder)


def test_a_tied_head_may_be_stored_and_is_not_read(tiny_qwen25vl: Callable[..., Any]) -> None:
    folder = tiny_qwen25vl(seed=6, tied=True).folder
    before = model_of(folder)
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(320, 128)}))
    assert same(model_of(folder), before)


def test_stacked_experts_load_with_either_order_of_inputs_and_outputs(
    tiny_qwen3vl: Callable[..., Any], tmp_path: Path
) -> None:
    """transformers 5 saves outputs before inputs; the hub has inputs before outputs, and so do we."""
    folder = shutil.copytree(tiny_qwen3vl(seed=6, experts=True).folder, tmp_path / "model")
    before = model_of(folder)
    assert before.get_parameter("decoder.layers.0.mlp.experts.down_proj").shape == (6, 48, 128)

    def turn(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if ".mlp.experts." in name]:
            tensors[name] = tensors[name].transpose(1, 2).contiguous()

    rewrite(folder, turn)
    assert load_file(folder / "model.safetensors")[f"{STACK}.down_proj"].shape == (6, 48, 128)
    assert same(model_of(folder), before)
    rewrite(folder, lambda tensors: tensors.update({f"{STACK}.down_proj": torch.zeros(6, 48, 127)}))
    with pytest.raises(CheckpointError, match=r"down_proj has shape \(6, 48, 127\), .* calls for \(6, 48, 128\)"):
        model_of(folder)


def test_later_families_keep_their_own_names(tiny_qwen3vl: Callable[..., Any], tmp_path: Path) -> None:
    source = tiny_qwen3vl(seed=6, experts=True).folder
    save_model(model_of(source), tmp_path, "float32", shard_bytes=2**30)
    (shard,) = tmp_path.glob("model-*.safetensors")
    stored, original = load_file(shard), load_file(source / "model.safetensors")
    assert stored.keys() == original.keys()
    for name, tensor in stored.items():
        expected = original[name].transpose(1, 2) if ".mlp.experts." in name else original[name]
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_saved_weights_come_back_as_they_were_stored(folder: Path, storage: Any) -> None:
    model = model_of(folder)
    (folder / "model.safetensors").unlink()
    save_model(model, folder, storage, shard_bytes=100_000)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert all(path.stat().st_size < 130_000 or len(load_file(path)) <= 2 for path in shards)
    again = model_of(folder)
    for name, weight in model.named_parameters():
        back = again.get_parameter(name)
        if storage == "float32" or (storage == "int8" and weight.ndim < 2):
            assert torch.equal(back, weight), name
        elif storage == "bfloat16":
            assert torch.equal(back, weight.bfloat16().float()), name
        else:
            assert torch.equal(back, dequantised(*quantised(weight))), name
    if storage == "int8":
        before = again
        save_model(again, folder, storage)
        assert same(model_of(folder), before)


def test_saved_weights_have_the_names_of_the_hub(source: Path, folder: Path) -> None:
    names = set(load_file(source / "model.safetensors"))
    model = model_of(folder)
    (folder / "model.safetensors").unlink()
    save_model(model, folder, "float32")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == names
    (shard,) = folder.glob("model-*.safetensors")
    stored, original = load_file(shard), load_file(source / "model.safetensors")
    assert all(torch.equal(stored[name], original[name]) for name in names)


def test_quantised_rows_are_symmetric_and_within_half_a_step() -> None:
    weight = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    integers, scale = quantised(weight)
    assert integers.dtype == torch.int8
    assert integers.flatten(1).abs().amax(dim=1).tolist() == [127, 127, 0, 127, 127, 127]
    error = (dequantised(integers, scale) - weight).flatten(1).abs()
    assert bool((error <= scale[:, None] * 0.5001).all())


def test_half_precision_on_request(folder: Path) -> None:
    model = load_model(folder, read_config(folder), dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert not model.training


def test_a_checkpoint_opens_whole(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.family.name == "qwen2_5_vl"
    assert checkpoint.pixels.side == 112
    span = checkpoint.chat.frame(checkpoint.chat.header().clock, 0, *checkpoint.pixels.grid(112, 112))
    assert span.tokens[-16:].tolist() == [checkpoint.tokenizer.special.video_pad] * 16


def test_unusable_files_are_named(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.old")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        open_checkpoint(folder)
    (folder / "tokenizer.old").rename(folder / "tokenizer.json")
    (folder / "model.safetensors").write_bytes(b"\x08" + bytes(40))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a readable"):
        open_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="neither"):
        open_checkpoint(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match="names model-00001-of-00002"):
        open_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"names \.\./secret"):
        open_checkpoint(folder)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="no index"):
        open_checkpoint(folder)


def test_a_tokenizer_larger_than_the_model_is_refused(tiny_qwen25vl: Callable[..., Any]) -> None:
    folder = tiny_qwen25vl(seed=7, text={"vocab_size": 300}).folder
    with pytest.raises(CheckpointError, match="320 ids, the model only 300"):
        open_checkpoint(folder)


def test_matrices_in_eight_bits_where_they_are_asked_for(folder: Path) -> None:
    plain, eight = open_checkpoint(folder), open_checkpoint(folder, weights="fp8")
    later = open_checkpoint(folder, load=load_model, weights="fp8").model
    assert all(torch.equal(tensor, later.state_dict()[name]) for name, tensor in eight.model.state_dict().items())
    assert eight.model.decoder.embed_tokens.weight.dtype == torch.float32
    matrices = [name for name, weight in eight.model.named_parameters() if weight.dtype == torch.float8_e4m3fn]
    assert "decoder.layers.0.self_attn.qkv_proj.weight" in matrices
    for name in matrices:
        scale = eight.model.get_buffer(name.removesuffix("weight") + "scale")
        there = eight.model.get_parameter(name).float() * scale.T
        torch.testing.assert_close(there, plain.model.get_parameter(name), rtol=1 / 16, atol=1e-4)


def test_experts_in_eight_bits_where_they_are_asked_for(tiny_qwen3vl: Callable[..., Any]) -> None:
    folder = tiny_qwen3vl(seed=6, experts=True).folder
    eight = open_checkpoint(folder, weights="fp8").model
    later = open_checkpoint(folder, load=load_model, weights="fp8").model.state_dict()
    assert all(torch.equal(tensor, later[name]) for name, tensor in eight.state_dict().items())
    weight = eight.get_parameter("decoder.layers.0.mlp.experts.down_proj")
    assert (weight.shape, weight.dtype, weight.stride(1)) == ((6, 48, 128), torch.float8_e4m3fn, 1)
