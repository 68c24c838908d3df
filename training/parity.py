"""`python -m training.parity`: the bundled weights in our modules and in transformers, on the same inputs.

Both see each clip picture by picture and answer the same questions greedily; answers that differ are listed. Prints
JSON alone to standard output.
"""

import argparse
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.listener import LONGEST, Listener
from training.world.director import direct
from training.world.questions import KINDS
from training.world.renderer import Renderer
from training.world.truth import questions
from training.world.video import pictures
from workers.models.chat import Span
from workers.models.checkpoint import Checkpoint, open_checkpoint
from workers.models.storage import TensorFolder

_NESTED = {"visual.": "model.visual.", "model.": "model.language_model."}


class Reference:
    """A checkpoint in transformers' own Qwen2.5-VL, with a DynamicCache; does what `Listener` does without a window."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        from transformers import DynamicCache, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

        self._checkpoint, self._chat = checkpoint, checkpoint.chat
        config: Any = Qwen2_5_VLConfig.from_pretrained(checkpoint.folder)
        built: Any = Qwen2_5_VLForConditionalGeneration
        model = built(config).eval()
        model.load_state_dict(_nested_weights(checkpoint.folder) | {"lm_head.weight": model.lm_head.weight})
        self._head, self._model = model.lm_head, model.model
        self._cache: Any = DynamicCache(config=config.text_config)
        header = self._chat.header()
        self._read(header, None)
        self._clock = header.clock

    @torch.inference_mode()
    def see(self, picture: NDArray[np.uint8], time_ms: int) -> None:
        """A picture [224, 224, 3] at its time."""
        pixels, config = self._checkpoint.pixels, self._checkpoint.config.vision
        # Transformers wants both pictures of a temporal patch: the same one twice.
        twice = torch.from_numpy(picture)[None, None].expand(1, config.temporal_patch_size, -1, -1, -1)
        rows, columns = pixels.grid(*picture.shape[:2])
        grid = torch.tensor([[1, rows * pixels.merge_size, columns * pixels.merge_size]])
        features = self._model.visual(pixels.patches(twice.contiguous())[0], grid_thw=grid).pooler_output
        span = self._chat.frame(self._clock, time_ms, rows, columns)
        self._read(span, features)
        self._clock = span.clock

    @torch.inference_mode()
    def ask(self, question: str) -> str:
        """The likeliest answer, token by token; the cache is cut back afterwards."""
        seen = self._cache.get_seq_length()
        span = self._chat.question(self._clock, question)
        said: list[int] = []
        while len(said) < LONGEST:
            token = int(self._head(self._read(span, None)[-1]).argmax())
            if token in self._checkpoint.tokenizer.special.stops:
                break
            said.append(token)
            span = self._chat.answer(span.clock, [token])
        self._cache.crop(seen - self._cache.get_seq_length())
        return self._checkpoint.tokenizer.decode(said)

    def _read(self, span: Span, features: Tensor | None) -> Tensor:
        decoder = self._model.language_model
        embeds = decoder.embed_tokens(torch.from_numpy(span.tokens))
        if features is not None:
            embeds = torch.cat((embeds[: len(embeds) - len(features)], features))
        positions = torch.from_numpy(span.positions).unsqueeze(1)
        with torch.inference_mode():
            out = decoder(
                inputs_embeds=embeds[None], position_ids=positions, past_key_values=self._cache, use_cache=True
            )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden


def _nested_weights(folder: Path) -> dict[str, Tensor]:
    """The folder's tensors as float32 under the names that transformers 5 gives them."""
    weights: dict[str, Tensor] = {}
    with TensorFolder(folder) as tensors:
        for name in tensors.shapes():
            prefix = next(prefix for prefix in _NESTED if name.startswith(prefix))
            weights[_NESTED[prefix] + name.removeprefix(prefix)] = tensors.read(name).float()
    return weights


def compare(folder: Path, seed: int, count: int, seconds: float) -> dict[str, Any]:
    """Both models' answers to a question of every kind about each of `count` clips."""
    checkpoint, renderer, rng = open_checkpoint(folder), Renderer.on(torch.device("cpu")), Random(seed)
    asked, different = 0, []
    for number in range(count):
        script = direct(rng.getrandbits(60), seconds)
        ours, theirs = Listener(checkpoint), Reference(checkpoint)
        pending = questions(script, rng, KINDS)
        for index, picture in enumerate(pictures(script, 1.0, renderer)):
            ours.see(picture, 1000 * index)
            theirs.see(picture, 1000 * index)
            while pending and pending[0].time < index + 1:
                text = pending.pop(0).text
                answers = ours.ask(text), theirs.ask(text)
                asked += 1
                if answers[0] != answers[1]:
                    different.append({"question": text, "ours": answers[0], "transformers": answers[1]})
        print(f"{number + 1} of {count} clips, {asked - len(different)} of {asked} answers the same", file=sys.stderr)
    return {"clips": count, "seed": seed, "questions": asked, "same": asked - len(different), "different": different}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/mini"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a clip")
    wanted = parser.parse_args()
    print(json.dumps(compare(wanted.model, wanted.seed, wanted.clips, wanted.seconds)))


if __name__ == "__main__":
    main()
