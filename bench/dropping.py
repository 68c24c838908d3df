"""How much of a stream is left when what did not change is dropped, and whether what changed is kept.

    python -m bench.dropping [--video /usr/share/doc/opencv-doc/examples/data/vtest.avi] [--sessions 8] [--json]

Each session sees its own crop of the video with its own noise, so that no two pictures are equal. `fixed` holds the
crop still, `moving` pans it. Without a video (Debian has vtest.avi in its package opencv-doc) a made-up street is
shown. Of blocks of 8 x 8 pixels whose mean changes by more than 8 of 255 from one picture to the next,
`changed_blocks_kept` is the share of which every patch that they touch is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.host import hardware, today
from workers.perception.changes import BLOCK, USUAL_THRESHOLD, USUAL_WHOLE, ChangeFilter, Look, Reference, faded, look

Picture = NDArray[np.uint8]
RESULTS = Path(__file__).resolve().parent / "results" / "dropping.json"
CHANGE = 8
PAGE = 16  # tokens: what is written of a picture takes whole pages
FRAME = (576, 768)


@dataclass(frozen=True, slots=True)
class Setting:
    """Pictures of `side` pixels and `lanes` x `lanes` patches, noise of `noise` (standard deviation, of 255), trunks of
    `room` tokens."""

    side: int
    lanes: int
    noise: float
    keep: ChangeFilter
    room: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Shares of 1. `changed_blocks` of all blocks changed; `ms` is the filter's own time for a picture."""

    pictures: int
    kept: float
    dropped_similar: float
    changed_blocks: float
    changed_blocks_kept: float
    ms: float


def video(path: Path, fps: float) -> list[Picture]:
    """A video's pictures RGB [height, width, 3], `fps` a second."""
    import av

    with av.open(str(path)) as source:
        every = max(1, round(float(source.streams.video[0].average_rate or fps) / fps))
        frames = (frame.to_ndarray(format="rgb24") for frame in source.decode(video=0))
        return [np.asarray(frame, np.uint8) for number, frame in enumerate(frames) if number % every == 0]


def street(seed: int, pictures: int) -> list[Picture]:
    """A made-up view of a camera that stands still: a pattern of soft blocks, and boxes that cross it."""
    chance = np.random.default_rng(seed)
    height, width = FRAME
    ground = np.kron(chance.integers(60, 190, (height // 48, width // 48, 3)), np.ones((48, 48, 1))).astype(np.uint8)
    boxes = [(chance.integers(0, 500), chance.uniform(-60, 60), chance.integers(0, 256, 3)) for _ in range(8)]
    shown = []
    for number in range(pictures):
        picture = ground.copy()
        for place, (top, speed, colour) in enumerate(boxes):
            left = int(place * 97 + number * speed) % width
            picture[top : top + 70, left : left + 30] = colour
        shown.append(picture)
    return shown


def seen(source: list[Picture], setting: Setting, seed: int, *, moving: bool) -> Iterator[Picture]:
    """What one session sees: a crop where the seed says, panned if `moving`, under noise."""
    chance = np.random.default_rng(seed)
    high, wide = (size - setting.side for size in source[0].shape[:2])
    top, left = int(chance.integers(0, high + 1)), int(chance.integers(0, wide + 1))
    for number, whole in enumerate(source):
        across = abs((left + 24 * number) % (2 * wide) - wide) if moving else left
        crop = whole[top : top + setting.side, across : across + setting.side]
        yield np.clip(crop + chance.normal(0, setting.noise, crop.shape), 0, 255).astype(np.uint8)


def measure(streams: list[list[Picture]], setting: Setting) -> Outcome:
    """The filter over several streams, one after another."""
    patches, similar, changed, changed_kept, blocks, seconds = 0, 0, 0, 0, 0, 0.0
    for stream in streams:
        started = time.perf_counter()
        looks = [look(picture) for picture in stream]
        masks = list(_kept(looks, setting))
        seconds += time.perf_counter() - started
        patches += sum(int(mask.sum()) for mask in masks)
        similar += sum(not mask.any() for mask in masks)
        for (before, after), mask in zip(pairwise(looks), masks[1:], strict=True):
            moved = np.abs(after.blocks - before.blocks).max(axis=-1) > CHANGE
            changed += int(moved.sum())
            changed_kept += int((moved & _whole(mask, setting)).sum())
            blocks += moved.size
    pictures = sum(map(len, streams))
    return Outcome(
        pictures=pictures,
        kept=round(patches / (pictures * setting.lanes**2), 4),
        dropped_similar=round(similar / pictures, 4),
        changed_blocks=round(changed / blocks, 4),
        changed_blocks_kept=round(changed_kept / max(changed, 1), 5),
        ms=round(1e3 * seconds / pictures, 3),
    )


def _kept(looks: list[Look], setting: Setting) -> Iterator[NDArray[np.bool_]]:
    """Of each picture the patches that are kept, [lanes, lanes]."""
    before: Reference | None = None
    written: deque[tuple[int, int]] = deque()
    for time_ms, each in enumerate(looks):
        gone = faded(written, setting.room // 2)
        sight = setting.keep.sight(each, setting.lanes, setting.lanes, before, time_ms, gone)
        before = sight.reference
        written.appendleft((time_ms, -(-sight.tokens // PAGE) * PAGE))
        yield np.asarray(before.kept_ms == time_ms)


def _whole(kept: NDArray[np.bool_], setting: Setting) -> NDArray[np.bool_]:
    """The blocks of which every pixel lies in a kept patch."""
    patch = setting.side // setting.lanes
    pixels = np.kron(kept, np.ones((patch, patch), np.bool_))
    blocks = setting.side // BLOCK
    return np.asarray(pixels.reshape(blocks, BLOCK, blocks, BLOCK).all(axis=(1, 3)))


def report(source: list[Picture], setting: Setting, sessions: int) -> dict[str, Outcome]:
    arms: dict[str, Callable[[int], Iterator[Picture]]] = {
        "fixed": lambda seed: seen(source, setting, seed, moving=False),
        "moving": lambda seed: seen(source, setting, seed, moving=True),
    }
    return {name: measure([list(arm(seed)) for seed in range(sessions)], setting) for name, arm in arms.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="default: a made-up street")
    parser.add_argument("--fps", type=float, default=1.0)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--side", type=int, default=448, help="of a picture in pixels, a multiple of 56")
    parser.add_argument("--noise", type=float, default=3.0, help="standard deviation, of 255")
    parser.add_argument("--threshold", type=int, default=USUAL_THRESHOLD, help="of 255; as the engine's")
    parser.add_argument("--whole", type=int, default=USUAL_WHOLE, help="of so many pictures one is kept whole")
    parser.add_argument("--room", type=int, default=4_352, help="tokens of a trunk, by which it is told what fades")
    parser.add_argument(
        "--json", type=Path, nargs="?", const=RESULTS, help=f"also write the report (default: {RESULTS})"
    )
    wanted = parser.parse_args()
    keep = ChangeFilter(wanted.threshold, wanted.whole)
    setting = Setting(wanted.side, wanted.side // 28, wanted.noise, keep, wanted.room)
    source = video(wanted.video, wanted.fps) if wanted.video else street(0, 80)
    outcomes = {name: asdict(outcome) for name, outcome in report(source, setting, wanted.sessions).items()}
    shown = wanted.video.name if wanted.video else "street"
    facts = {"date": today(), "hardware": hardware(), "video": shown, "pictures": len(source), "fps": wanted.fps}
    result = {**facts, "setting": asdict(setting), "figures": outcomes}
    print(json.dumps(result, indent=1))
    if wanted.json:
        wanted.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
