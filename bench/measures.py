"""The arms of `python -m bench.engine --device cuda`, by name: each adds what it found to the report."""

from __future__ import annotations

import asyncio
import gc
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from bench import live_arm, vllm_arm
from bench.camera import Blocks, Crops, View
from bench.card import Card
from bench.growth import Growth, grow
from bench.load import ROOM, LiveLoad, Load
from bench.random_model import random_checkpoint
from bench.report import Details, Report
from bench.vllm_arm import VllmPlace
from workers.models.checkpoint import Checkpoint
from workers.models.config import ModelConfig
from workers.models.eightbit import convert

SPARED = 0.9  # of the time between tokens that is promised is what an engine under load aims at
_LONG = ("trials", "kept", "memory", "samples", "looks")


class Skipped(Exception):
    """An arm cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the arms are given. `folder` holds the model's shape, `footage` a fixed camera's pictures as JPEG files,
    `engine` further arguments for engines in processes of their own, `ceiling` pictures a second where ingest is not
    measured.
    """

    config: ModelConfig
    folder: Path
    side: int
    device: str
    dtype: torch.dtype
    load: Load
    live: LiveLoad
    growth: Growth
    footage: Path | None = None
    engine: Sequence[str] = ()
    ceiling: float | None = None
    vllm: VllmPlace | None = None
    profile: Callable[[str], None] | None = None


class Measures:
    """Takes arms one after the other, with at most one model of this process on the device."""

    def __init__(self, setup: Setup, report: Report) -> None:
        self._setup, self._report = setup, report
        self._checkpoint: Checkpoint | None = None

    def take(self, arm: str) -> bool:
        """Measures one arm; the report says so where it cannot be. False if it failed."""
        try:
            ARMS[arm](self)
        except Skipped as reason:
            self._tell(arm, {"skipped": str(reason)})
        except Exception as error:  # the other arms still have something to say
            traceback.print_exc()
            self._release()
            self._tell(arm, {"failed": f"{type(error).__name__}: {error}"})
            return False
        return True

    # --- engines in this process --------------------------------------------------------------------------------------

    def ingest(self) -> None:
        self._tell("ingest", self._card().ingest(), self._setup.load)

    def ingest_fp8(self) -> None:
        self._release()
        card = self._card(eight_bits=True)
        self._tell("ingest_fp8", card.ingest(), self._setup.load)
        self._release()

    def ingest_drop(self) -> None:
        fixed = self._crops()
        told: Details = self._card().dropping(fixed) | {"threshold": self._setup.load.threshold}
        self._tell("ingest_drop", told | {"changes": changed_blocks(fixed, self._setup.load)}, self._setup.load)

    def ingest_moving(self) -> None:
        moving = replace(self._crops(), moving=True)
        told: Details = self._card().dropping(moving) | {"threshold": self._setup.load.threshold}
        self._tell("ingest_moving", told | {"changes": changed_blocks(moving, self._setup.load)}, self._setup.load)

    def loaded(self) -> None:
        ceiling = self._setup.ceiling or self._report.details.get("ingest", {}).get("fps")
        if not ceiling:
            raise Skipped("the ceiling of ingest is not known: measure `ingest` first, or give --ceiling")
        load = self._setup.load
        live = replace(
            self._setup.live,
            most=load.sessions,
            fps=load.share * ceiling / load.sessions,
            answers=load.answers,
            answer_tokens=load.answer_tokens,
            complete=True,
            seconds=load.seconds,
            slo_itl_ms=self._setup.live.slo_itl_ms and SPARED * 1e3 * self._setup.live.between_s,
        )
        found = asyncio.run(live_arm.steady(self._room(live), Blocks(self._setup.side), live, load.sessions))
        self._tell("loaded", found | {"ceiling": ceiling, "share": round(found["fps"] / ceiling, 3)}, live)

    def decode(self) -> None:
        self._tell("decode", self._card(load=self._decoding).decode(), self._decoding)

    def decode_fp8(self) -> None:
        """Weights and memory in eight bits."""
        self._release()
        card = self._card(eight_bits=True, kv_dtype="fp8", load=self._decoding)
        self._tell("decode_fp8", card.decode(), self._decoding)
        self._release()

    def quiet(self) -> None:
        self._tell("quiet", self._card().quiet(), self._setup.load)

    def age(self) -> None:
        self._tell("age", {"looks": self._card().age()}, self._setup.load)

    def growth(self) -> None:
        self._release()
        self._tell("growth", grow(self._setup.growth, self._setup.device), self._setup.growth)

    # --- engines in processes of their own ----------------------------------------------------------------------------

    def live_full(self) -> None:
        view = Blocks(self._setup.side)
        live = self._setup.live
        self._tell("live_full", asyncio.run(live_arm.largest(self._room(live), view, live)), live)

    def live_drop(self) -> None:
        live = self._setup.live
        room = self._room(live, "--drop-threshold", str(self._setup.load.threshold), "--afterimages", str(live.most))
        self._tell("live_drop", asyncio.run(live_arm.largest(room, self._crops(), live)), live)

    def steady(self) -> None:
        """Nine tenths of what is carried, and every book checked at every compaction."""
        live = self._setup.live
        most = self._report.details.get("live_full", {}).get("sessions") or live.sessions
        found = live_arm.steady(self._room(live, "--check-books"), Blocks(self._setup.side), live, int(0.9 * most) or 1)
        self._tell("steady", asyncio.run(found), live)

    def gateway(self) -> None:
        try:
            from bench import gateway_arm
        except ModuleNotFoundError as error:
            raise Skipped(f"the gateway cannot run here: {error}") from error
        setup, load = self._setup, self._setup.load
        environment = {
            "LONGLOOK_RANDOM_WEIGHTS": "true",
            "LONGLOOK_DEVICE": setup.device,
            "LONGLOOK_DTYPE": str(setup.dtype).removeprefix("torch."),
            "LONGLOOK_POOL_TOKENS": str(2 * self._budget),
        }
        found = gateway_arm.quiet(
            setup.folder, environment, Blocks(setup.side), self._budget, load.pictures + 1, load.quiet
        )
        self._release()
        self._tell("gateway", asyncio.run(found), load)

    def vllm(self) -> None:
        self._peer(lambda place, before: vllm_arm.measured(place, self._setup.side, before))

    def vllm_fp8(self) -> None:
        self._peer(lambda place, before: vllm_arm.eight_bits(place, self._setup.side, before))

    def vllm_sessions(self) -> None:
        self._peer(vllm_arm.sessions)

    # --- what they share ----------------------------------------------------------------------------------------------

    def _peer(self, measure: Callable[[VllmPlace, Details], Iterator[Details]]) -> None:
        if self._setup.vllm is None:
            raise Skipped("vLLM is not here: give --vllm, the PYTHONPATH where it can be imported")
        self._release()
        for found in measure(self._setup.vllm, self._report.arms.get("vllm", {})):
            self._report.arms["vllm"] = found
            self._report.keep()

    def _tell(self, arm: str, found: Mapping[str, Any], load: Load | LiveLoad | Growth | None = None) -> None:
        """Puts down what an arm found, and under how much of what."""
        self._report.details[arm] = {**found, "load": asdict(load)} if load else dict(found)
        self._report.keep()
        print(
            f"{arm}: { ({name: value for name, value in found.items() if name not in _LONG}) }",
            flush=True,
        )

    def _card(
        self, *, eight_bits: bool = False, kv_dtype: Literal["fp8"] | None = None, load: Load | None = None
    ) -> Card:
        setup = self._setup
        if self._checkpoint is None:
            self._checkpoint = random_checkpoint(setup.device, setup.dtype, setup.config, setup.side)
            if eight_bits:
                convert(self._checkpoint.model)
        return Card(self._checkpoint, load or setup.load, setup.profile, kv_dtype)

    def _release(self) -> None:
        """Frees the device for an engine in another process."""
        self._checkpoint = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _crops(self) -> Crops:
        if self._setup.footage is None:
            raise Skipped("no footage: give --footage, a folder that `python -m bench.camera` has written")
        return Crops(self._setup.footage, self._setup.side)

    @property
    def _decoding(self) -> Load:
        return replace(self._setup.load, pictures=self._setup.load.decoding_pictures)

    @property
    def _budget(self) -> int:
        factor = self._setup.config.vision.merged_patch
        return self._setup.load.pictures * (self._setup.side // factor) ** 2 + ROOM

    def _room(self, load: LiveLoad, *further: str) -> live_arm.Room:
        """Memory for as many sessions as the load may come to; the engine's process gets the device for itself."""
        self._release()
        setup = self._setup
        arguments = [
            *("--model", str(setup.folder), "--random-weights", "--device", setup.device),
            *("--dtype", str(setup.dtype).removeprefix("torch.")),
            *("--pool-tokens", str(load.most * self._budget + 16)),
            *(("--slo-itl-ms", str(load.slo_itl_ms)) if load.slo_itl_ms else ()),
            *further,
            *setup.engine,
        ]
        fill = setup.load.pictures + 1 if not further or "--drop-threshold" not in further else 5 * setup.load.pictures
        return live_arm.Room(arguments, self._budget, fill)


def changed_blocks(view: View, load: Load, pictures: int = 80, cameras: int = 4) -> dict[str, Any]:
    """What the filter keeps of changed blocks, on the pictures of some cameras; no device takes part."""
    from bench.dropping import Setting, measure
    from workers.perception.changes import USUAL_WHOLE, ChangeFilter

    keep, lanes = ChangeFilter(load.threshold, USUAL_WHOLE), view.side // 28
    setting = Setting(view.side, lanes, 0.0, keep, load.pictures * lanes**2)
    streams = [[view.pixels(camera, number) for number in range(pictures)] for camera in range(cameras)]
    return asdict(measure(streams, setting))


Take = Callable[[Measures], None]
ARMS: Mapping[str, Take] = MappingProxyType(
    {
        "ingest": Measures.ingest,
        "ingest_drop": Measures.ingest_drop,
        "ingest_moving": Measures.ingest_moving,
        "loaded": Measures.loaded,
        "decode": Measures.decode,
        "decode_fp8": Measures.decode_fp8,
        "quiet": Measures.quiet,
        "age": Measures.age,
        "ingest_fp8": Measures.ingest_fp8,
        "growth": Measures.growth,
        "live_full": Measures.live_full,
        "live_drop": Measures.live_drop,
        "steady": Measures.steady,
        "gateway": Measures.gateway,
        "vllm": Measures.vllm,
        "vllm_fp8": Measures.vllm_fp8,
        "vllm_sessions": Measures.vllm_sessions,
    }
)
