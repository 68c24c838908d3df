"""Ways of taking one stream in frame by frame, timed stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from workers.engine.engine import Engine
from workers.engine.messages import CloseSession, Event, FrameTaken, OpenSession, PushFrame
from workers.engine.settings import EngineSettings
from workers.models.chat import INSTRUCTIONS, Span
from workers.models.checkpoint import Checkpoint

Picture = NDArray[np.uint8]
SESSION = "stream"


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds of one frame; `keys` is how many tokens the decoder held when it came."""

    keys: int
    preprocess: float
    vision: float
    decoder: float

    @property
    def total(self) -> float:
        return self.preprocess + self.vision + self.decoder


class Arm(Protocol):
    @property
    def name(self) -> str: ...

    def start(self) -> None:
        """Begins an empty stream."""

    def frame(self, picture: Picture, t_ms: int) -> Stages:
        """Takes one picture in."""
        ...

    def stop(self) -> None:
        """Gives the stream's memory back."""


class Stopwatch:
    """Seconds between readings, each taken when the device has done what it was given."""

    def __init__(self, device: str) -> None:
        self._settle: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else int
        self._last = 0.0
        self.lap()

    def lap(self) -> float:
        self._settle()
        last, self._last = self._last, time.perf_counter()
        return self._last - last


class EngineArm:
    """The engine, in this process. Whatever is neither patching nor vision tower counts as decoder."""

    def __init__(self, name: str, checkpoint: Checkpoint, policy: str, budget: int, device: str) -> None:
        self.name, self._policy, self._budget, self._device = name, policy, budget, device
        self._picture = np.empty((0, 0, 3), np.uint8)
        self._outcomes: list[str] = []
        self._tower = [0.0, 0.0]
        settings = EngineSettings(pool_tokens=budget, step_pictures=1)
        self._engine = Engine(checkpoint, settings, lambda _: self._picture, self._heard)
        self._watch = Stopwatch(device)
        checkpoint.model.vision.register_forward_pre_hook(self._tower_begins)
        checkpoint.model.vision.register_forward_hook(self._tower_ends)

    def start(self) -> None:
        opening = {"budget_tokens": self._budget, "policy": self._policy, "instructions": INSTRUCTIONS}
        self._engine.handle(OpenSession(session_id=SESSION, complete=True, **opening))  # type: ignore[arg-type]
        self._work()

    def stop(self) -> None:
        self._engine.handle(CloseSession(session_id=SESSION))

    def frame(self, picture: Picture, t_ms: int) -> Stages:
        self._picture = picture
        height, width = picture.shape[:2]
        keys = self._engine.sessions[SESSION].trunk.tokens
        frame = PushFrame(
            session_id=SESSION, sequence=0, t_ms=t_ms, slot=0, width=width, height=height, deadline=float("inf")
        )
        started = self._now()
        self._engine.handle(frame)
        self._work()
        ended = self._now()
        if self._outcomes.pop() != "prefilled":
            raise RuntimeError(f"{self.name}: the frame at {t_ms} ms was not taken in")
        seen, told = self._tower
        return Stages(keys, seen - started, told - seen, ended - told)

    def _work(self) -> None:
        while self._engine.step():
            pass

    def _heard(self, event: Event) -> None:
        if isinstance(event, FrameTaken):
            self._outcomes.append(event.outcome)

    def _now(self) -> float:
        self._watch.lap()
        return time.perf_counter()

    def _tower_begins(self, *_: object) -> None:
        self._tower[0] = self._now()

    def _tower_ends(self, *_: object) -> None:
        self._tower[1] = self._now()


class TransformersArm:
    """`transformers` on the same weights: sdpa, DynamicCache, our position ids, no language head.

    Pictures go through its image processor (the PIL variant); the frame's tokens are embedded and joined with the
    vision tower's output, as its own forward pass does, and the decoder runs over them with the cache.
    """

    name = "transformers"

    def __init__(self, folder: Path, checkpoint: Checkpoint, device: str) -> None:
        from transformers import Qwen2_5_VLForConditionalGeneration
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        dtype = checkpoint.model.decoder.embed_tokens.weight.dtype
        load: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained
        self._model = load(folder, dtype=dtype, attn_implementation="sdpa").to(device).eval().model
        self._processor: Any = Qwen2VLImageProcessorPil.from_pretrained(folder)
        self._chat, self._device, self._dtype = checkpoint.chat, device, dtype
        self._cache: Any = None
        self._clock = checkpoint.chat.header().clock

    def start(self) -> None:
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self._model.config.text_config)
        self._read(self._chat.header(), None)

    def stop(self) -> None:
        self._cache = None

    @torch.inference_mode()
    def frame(self, picture: Picture, t_ms: int) -> Stages:
        keys = self._cache.get_seq_length()
        watch = Stopwatch(self._device)
        pixels = self._processor(picture, return_tensors="pt")
        patches = pixels["pixel_values"].to(self._device, self._dtype)
        preprocess = watch.lap()
        features = self._model.visual(patches, grid_thw=pixels["image_grid_thw"].to(self._device)).pooler_output
        vision = watch.lap()
        _, down, across = (pixels["image_grid_thw"][0] // torch.tensor([1, 2, 2])).tolist()
        self._read(self._chat.frame(self._clock, t_ms, down, across), features)
        return Stages(keys, preprocess, vision, watch.lap())

    @torch.inference_mode()
    def _read(self, span: Span, features: torch.Tensor | None) -> None:
        decoder = self._model.language_model
        embeds = decoder.embed_tokens(torch.from_numpy(span.tokens).to(self._device))
        if features is not None:
            embeds = torch.cat([embeds[: len(embeds) - len(features)], features])
        positions = torch.from_numpy(span.positions).to(self._device).unsqueeze(1)
        decoder(inputs_embeds=embeds[None], position_ids=positions, past_key_values=self._cache, use_cache=True)
        self._clock = span.clock
