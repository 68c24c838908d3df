"""`python -m workers.engine`: the engine process, as `client.py` starts it."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from workers.core import ALONE, Team
from workers.engine.calibration import calibrated
from workers.engine.device import Device, Pixels
from workers.engine.engine import Engine, MakeDevice
from workers.engine.messages import Event
from workers.engine.process import serve
from workers.engine.ring import PixelRing
from workers.engine.settings import EngineSettings
from workers.models.checkpoint import Checkpoint, load_model, open_checkpoint
from workers.models.drawn import drawn_model
from workers.models.hub import resolve
from workers.parallel.leader import leading
from workers.parallel.processes import Place, Processes, follow, join
from workers.perception.changes import USUAL_WHOLE

# A session's usual budget: half a minute of frames at one a second and what is beside them, if they are not large.
USUAL_FRAMES, USUAL_TOKENS = 40, 4_096


def main() -> None:
    """Serves the socket that was inherited until it closes.

    An interrupt from the terminal is the worker's to deal with: it reaches both, and the worker closes the socket.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arguments = _parser().parse_args()
    peer = socket.socket(fileno=arguments.socket_fd)
    os.set_inheritable(arguments.socket_fd, False)
    ring = PixelRing(arguments.ring_fd, arguments.ring_slots, arguments.ring_slot_bytes)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with peer, ExitStack() as others:
        if arguments.rank:
            follow(peer, _place(arguments), partial(_checkpoint, arguments, _folder(arguments)), _pixels(ring))
        else:
            serve(peer, lambda emit: _engine(arguments, ring, emit, others))


def _folder(arguments: argparse.Namespace) -> Path:
    return resolve(arguments.model, revision=arguments.revision, cache=arguments.cache_dir, offline=arguments.offline)


def _place(arguments: argparse.Namespace) -> Place:
    return Place(arguments.rank, arguments.tensor_parallel, arguments.meeting, cuda=arguments.device == "cuda")


def _pixels(ring: PixelRing) -> Pixels:
    return lambda frame: ring.pixels(frame.slot, frame.height, frame.width)


def _checkpoint(arguments: argparse.Namespace, folder: Path, team: Team = ALONE) -> Checkpoint:
    """The model, or a rank's share of it. ModelError says what is wrong with it."""
    cuda = arguments.device == "cuda"
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else torch.bfloat16 if cuda else torch.float32
    load = partial(drawn_model if arguments.random_weights else load_model, team=team)
    return open_checkpoint(folder, arguments.device, dtype, load, weights=arguments.weights)


def _engine(arguments: argparse.Namespace, ring: PixelRing, emit: Callable[[Event], None], others: ExitStack) -> Engine:
    """Loads the model, and has the other ranks that there are to be do the same; they end with `others`."""
    cuda, folder, target = arguments.device == "cuda", _folder(arguments), arguments.slo_itl_ms
    team: Team = ALONE
    make_device: MakeDevice = Device
    if arguments.tensor_parallel > 1:
        given = [*sys.argv[1:], "--model", str(folder)]
        processes = others.enter_context(Processes(arguments.tensor_parallel, given, [ring.fd]))
        team = join(replace(_place(arguments), meeting=processes.meeting))
        make_device = leading(team, processes.links)
    checkpoint = _checkpoint(arguments, folder, team)
    settings = EngineSettings(
        name=folder.name if Path(arguments.model).expanduser().is_dir() else arguments.model,
        pool_tokens=arguments.pool_tokens or (262_144 if cuda else 16_384),
        default_budget=min(USUAL_FRAMES * checkpoint.pixels.tokens, USUAL_TOKENS),
        step_tokens=arguments.step_tokens or (4_096 if target else 2_048 if cuda else 128),
        step_pictures=arguments.step_pictures or (16 if cuda or target else 1),
        kv_dtype=arguments.kv_dtype,
        head_groups=arguments.head_groups,
        drop_threshold=arguments.drop_threshold,
        drop_whole=arguments.drop_whole,
        afterimages=arguments.afterimages,
        trained_length=arguments.trained_length,
        check_books=arguments.check_books,
    )
    if target:
        settings = calibrated(checkpoint, settings, target / 1000, make_device)
    engine = Engine(checkpoint, settings, _pixels(ring), emit, make_device=make_device)
    engine.warm()
    return engine


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers.engine", description="The engine process of a worker.")
    pipe = parser.add_argument_group("what the worker passes on")
    pipe.add_argument("--socket-fd", type=int, required=True)
    pipe.add_argument("--ring-fd", type=int, required=True)
    pipe.add_argument("--ring-slots", type=int, required=True)
    pipe.add_argument("--ring-slot-bytes", type=int, required=True)
    ranks = parser.add_argument_group("several devices")
    ranks.add_argument("--tensor-parallel", type=int, default=1, help="devices among which the model is divided")
    ranks.add_argument("--rank", type=int, default=0, help="which of them this process is; 0 starts the others")
    ranks.add_argument("--meeting", default="", help="file by which the ranks find each other")
    model = parser.add_argument_group("model")
    model.add_argument("--model", required=True, help="bundled name, folder, or organisation/name on the hub")
    model.add_argument("--revision", help="branch, tag or commit on the hub")
    model.add_argument("--cache-dir", type=Path, help="where downloads are kept")
    model.add_argument("--offline", action="store_true", help="download nothing")
    model.add_argument("--random-weights", action="store_true", help="read no weights: for measuring speed")
    model.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    model.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32 on cpu, bfloat16 on cuda")
    model.add_argument("--weights", choices=("fp8",), help="matrices in eight bits; default: in dtype")
    model.add_argument("--trained-length", type=int, help="largest distance between positions; default: the model's")
    sizes = parser.add_argument_group("sizes")
    sizes.add_argument("--pool-tokens", type=int, help="KV slots for all sessions together")
    sizes.add_argument("--step-tokens", type=int, help="decoder tokens in one step")
    sizes.add_argument("--step-pictures", type=int, help="pictures through the vision encoder in one step")
    sizes.add_argument("--slo-itl-ms", type=float, help="measure steps, and let none between two tokens take longer")
    sizes.add_argument("--kv-dtype", choices=("fp8",), help="keep keys and values in eight bits")
    sizes.add_argument("--head-groups", type=int, default=1, help="groups of KV heads that keep tokens of their own")
    sizes.add_argument(
        "--drop-threshold", type=int, default=0, help="patches that changed by no more (of 255) are dropped"
    )
    sizes.add_argument(
        "--drop-whole", type=int, default=USUAL_WHOLE, help="of so many pictures one is kept whole all the same"
    )
    sizes.add_argument(
        "--afterimages", type=int, help="sessions of which the vision tower then remembers what stands still"
    )
    sizes.add_argument("--check-books", action="store_true", help="audit the memory at every compaction; takes time")
    sizes.add_argument("--threads", type=int, help="CPU threads of torch")
    return parser


if __name__ == "__main__":
    main()
