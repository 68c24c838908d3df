"""What an engine is started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workers.perception.changes import USUAL_WHOLE

KVDtype = Literal["fp8"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """`name` is what the model is called; sizes are in tokens unless said otherwise.

    `pool_tokens`: KV slots of the whole pool. `step_tokens`, `step_pictures`: what one step may take through decoder
    and vision tower; `floor_tokens`: what is left of it for prompts and frames however many answers run.
    `answer_tokens`, `picture_tokens`: how many of its tokens an answer and a picture are worth, by the time they take.
    `frame_seconds`: what a frame costs, as measured; 0: unknown, and then nothing hangs on it. `head_groups`: into how
    many groups a layer's KV heads are divided; under policies that select tokens, each group keeps its own.
    `drop_threshold`: a patch is kept again if its colours changed by more than so much of 255 since it was last kept; 0
    keeps all of every frame. `drop_whole`: of so many frames one is kept whole all the same; 0: none. `afterimages`: of
    how many sessions the vision tower then remembers what stands still and need not be encoded; by default one for each
    4,096 tokens of the pool. `kv_dtype`: what keys and values are stored in, by default what the model computes in; as
    "fp8" twice as many fit, rounded to four significant bits. `trained_length`: overrides the model's. `reanchor`:
    off only to show what it is for. `check_books`: holds the books against what sessions have at every compaction.
    """

    name: str = "model"
    pool_tokens: int = 16_384
    default_budget: int = 2_560
    page_size: int = 16
    step_tokens: int = 256
    step_pictures: int = 4
    floor_tokens: int = 64
    answer_tokens: float = 1.0
    picture_tokens: float = 0.0
    frame_seconds: float = 0.0
    head_groups: int = 1
    drop_threshold: int = 0
    drop_whole: int = USUAL_WHOLE
    afterimages: int | None = None
    kv_dtype: KVDtype | None = None
    trained_length: int | None = None
    reanchor: bool = True
    check_books: bool = False

    @property
    def remembered(self) -> int:
        """Of how many sessions the vision tower remembers what stands still; 0 where nothing is dropped."""
        if not self.drop_threshold:
            return 0
        return -(-self.pool_tokens // 4_096) if self.afterimages is None else self.afterimages
