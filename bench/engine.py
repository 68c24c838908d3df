"""What the engine does: one stream beside `transformers` on a CPU, many live streams beside vLLM on a GPU.

    python -m bench.engine --device cpu [--model mini] [--threads 2] [--repeats 3] [--json [PATH]]
    python -m bench.engine --device cuda [--arms a,b,c] [--footage FOLDER] [--vllm PYTHONPATH] [--json [PATH]]

On a CPU: see `bench/comparison.py`. On a GPU: a model of the Qwen2.5-VL-7B shape with random weights and pictures of
448 x 448, 256 tokens each. Its arms can be spread over several calls: with the same --json what they find is put into
one file, as long as commit, machine, model and precision are the same. `figures` are ours, `details` what stands behind
them, by arm; `arms` what others were measured to do.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.comparison import compared, show
from bench.growth import Growth
from bench.load import LiveLoad, Load
from bench.machine import Facts, machine
from bench.measures import ARMS, Measures, Setup
from bench.plot import draw
from bench.random_model import SHAPES
from bench.report import Report
from bench.shape import write_shape
from bench.vllm_arm import VllmPlace

RESULTS = Path(__file__).resolve().parent / "results"
DEFAULT = RESULTS / "engine-DEVICE.json"
SIDE = 448


def main(given: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(given)
    torch.set_num_threads(arguments.threads)
    facts = machine(arguments.device, arguments.threads)
    if arguments.commit:
        facts["commit"] = arguments.commit
    path = None
    if arguments.json:
        path = RESULTS / f"engine-{arguments.device}.json" if arguments.json is DEFAULT else arguments.json
    if arguments.arms or arguments.device == "cuda":
        _arms(arguments, facts, path)
        return
    compare = compared(arguments.model, arguments.device, arguments.repeats, facts)
    show(compare)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(compare)) + "\n", encoding="utf-8")


def _arms(arguments: argparse.Namespace, facts: Facts, path: Path | None) -> None:
    """Takes the arms in the order that they have; what is measured is written after each of them."""
    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    facts |= {"model": arguments.shape, "weights": "random", "dtype": str(dtype), "side": arguments.side}
    report = Report.continued(facts, path)
    wanted = arguments.arms.split(",") if arguments.arms else list(ARMS)
    if unknown := set(wanted) - set(ARMS):
        raise SystemExit(f"no arms {', '.join(sorted(unknown))}: there are {', '.join(ARMS)}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="longlook-bench-")))
        measures = Measures(_setup(arguments, dtype, folder, stack), report)
        failed = [arm for arm in ARMS if arm in wanted and not measures.take(arm)]
    if path:
        draw(report, path.parent)
    for name, value in report.figures.items():
        print(f"{name}: {value}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _setup(arguments: argparse.Namespace, dtype: torch.dtype, folder: Path, stack: ExitStack) -> Setup:
    config = SHAPES[arguments.shape]
    log = stack.enter_context(arguments.profile.open("w")) if arguments.profile else None
    numbers = tuple(int(number) for number in arguments.vllm_configurations.split(","))
    return Setup(
        config=config,
        folder=write_shape(config, folder, arguments.side),
        side=arguments.side,
        device=arguments.device,
        dtype=dtype,
        load=_chosen(Load(), arguments, "load"),
        live=_chosen(LiveLoad(), arguments, "live"),
        growth=_chosen(Growth(), arguments, "growth"),
        footage=arguments.footage,
        engine=shlex.split(arguments.engine),
        ceiling=arguments.ceiling,
        vllm=VllmPlace(arguments.vllm, config, numbers) if arguments.vllm else None,
        profile=None if log is None else log.write,
    )


Chosen = TypeVar("Chosen", Load, LiveLoad, Growth)


def _chosen(load: Chosen, arguments: argparse.Namespace, group: str) -> Chosen:
    """The load with what was given of it as `NAME=VALUE`."""
    changes: dict[str, Any] = {}
    for pair in getattr(arguments, group):
        name, _, value = pair.partition("=")
        if name not in asdict(load):
            raise SystemExit(f"--{group} has no {name}: there are {', '.join(asdict(load))}")
        meant = json.loads(value)
        changes[name] = tuple(meant) if isinstance(meant, list) else meant
    return replace(load, **changes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    where = f"also write the report (default: {RESULTS}/engine-DEVICE.json)"
    parser.add_argument("--json", type=Path, nargs="?", const=DEFAULT, help=where)
    parser.add_argument("--commit", help="where the checkout cannot say which it is")
    stream = parser.add_argument_group("one stream beside transformers")
    stream.add_argument("--model", default="mini", help="of the Qwen2.5-VL family; without weights, random ones")
    stream.add_argument("--repeats", type=int, default=3)
    arms = parser.add_argument_group("arms")
    arms.add_argument("--arms", help=f"some of {', '.join(ARMS)}; default on a GPU: all")
    arms.add_argument("--shape", choices=tuple(SHAPES), default=next(iter(SHAPES)))
    arms.add_argument("--side", type=int, default=SIDE, help="of a picture in pixels")
    for group, kind in (("load", Load), ("live", LiveLoad), ("growth", Growth)):
        names = ", ".join(asdict(kind()))
        arms.add_argument(f"--{group}", nargs="*", default=[], metavar="NAME=VALUE", help=f"of {names}")
    arms.add_argument("--ceiling", type=float, help="pictures a second, for `loaded` where ingest is not measured")
    arms.add_argument("--footage", type=Path, help="folder that `python -m bench.camera` has written")
    arms.add_argument("--engine", default="", help="further arguments for engines in processes of their own")
    arms.add_argument("--profile", type=Path, help="also write where a GPU's time goes")
    arms.add_argument("--vllm", help="PYTHONPATH where vLLM can be imported from")
    arms.add_argument("--vllm-configurations", default="0,1,2")
    return parser


if __name__ == "__main__":
    main()
