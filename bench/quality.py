"""How often the served model is right about videos that nobody has seen.

    python -m bench.quality --suite first-light --seed 7 --json

Renders the suite's videos from the seed, streams them as H.264 over the WebSocket through a running server, asks each
question when the stream has come to its time, and scores the answers by the script that the video was made from. The
server never sees a script. Three parts: `sight` (40 videos of 45 s), `aged` (one session, asked when it is ten minutes
old) and `blind` (the same 40, every picture grey: what can be guessed). Only JSON goes to standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.host import hardware, today
from launcher.serving import serving
from longlook_client import AsyncAnswer, AsyncClient, AsyncLiveSession
from training.world.questions import Question
from training.world.renderer import Renderer
from training.world.scoring import Verdict, judge, summary
from training.world.suite import Clip, clips, long_clip
from training.world.video import access_units, pictures

PARTS = ("sight", "aged", "blind")
RATE = 3.0  # pictures a second that the camera sends; the model sees one
AGE_S = 600.0
EVERY_S = 4.5  # between the questions of the aged session
BUDGET = 2560  # what a session of the bundled model has by default
TOGETHER = 2  # sessions at a time


@dataclass(frozen=True, slots=True)
class Arm:
    """How the server is to keep a stream: its `model` (None: the bundled one), `policy`, `budget`, and what it `drop`s.

    `groups` is into how many groups of heads a layer is divided, each of which keeps tokens of its own.
    """

    model: str | None
    policy: str
    budget: int
    drop: int
    groups: int

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LONGLOOK_POOL_TOKENS": str(TOGETHER * self.budget),
            "LONGLOOK_DROP_THRESHOLD": str(self.drop),
            "LONGLOOK_HEAD_GROUPS": str(self.groups),
        }


async def watch(client: AsyncClient, clip: Clip, arm: Arm, *, blind: bool) -> list[Verdict]:
    """Verdicts on a video's questions, each asked between the pictures before its time and those after it."""
    pending = list(clip.questions)
    asked: list[tuple[Question, AsyncAnswer]] = []
    opened = await client.create_session(
        wait=120.0, fps=1.0, budget_tokens=arm.budget, policy=arm.policy, ingest="complete"
    )
    async with opened as session, session.live() as live:
        units = camera(clip, blind=blind)
        while (unit := await asyncio.to_thread(next, units, None)) is not None:
            captured, data = unit
            while pending and pending[0].time < captured:
                asked.append(await _ask(live, pending.pop(0)))
            if not pending:
                break
            await live.send_h264(data, captured)
        asked += [await _ask(live, question) for question in pending]
        await live.end_media()
        return [judge(question, (await answer.result()).text) for question, answer in asked]


async def _ask(live: AsyncLiveSession, question: Question) -> tuple[Question, AsyncAnswer]:
    answer = await live.ask(question.text, at_ms=round(question.time * 1000), remember=False, max_tokens=32)
    return question, answer


def camera(clip: Clip, *, blind: bool) -> Iterator[tuple[float, bytes]]:
    """A video as a camera would send it: capture times in seconds, each with its access unit."""
    shown = pictures(clip.script, RATE, Renderer.on(torch.device("cpu")), blind=blind)
    for number, unit in enumerate(access_units(shown, RATE)):
        yield number / RATE, unit


async def run(parts: list[str], seed: int, count: int, arm: Arm) -> dict[str, list[Verdict]]:
    """Verdicts of each part, all on one server."""
    verdicts: dict[str, list[Verdict]] = {}
    with tempfile.TemporaryDirectory(prefix="longlook-bench-") as folder:
        async with serving(Path(folder) / "serve.log", model=arm.model, environment=arm.environment) as server:
            for part in parts:
                aged = part == "aged"
                shown = [long_clip(seed, 5 * count, AGE_S, EVERY_S)] if aged else clips(seed, count)
                verdicts[part] = await _all(server.client, shown, part, arm)
    return verdicts


async def _all(client: AsyncClient, shown: list[Clip], part: str, arm: Arm) -> list[Verdict]:
    room, verdicts = asyncio.Semaphore(TOGETHER), list[Verdict]()

    async def one(clip: Clip) -> None:
        async with room:
            verdicts.extend(await watch(client, clip, arm, blind=part == "blind"))
        right = sum(verdict.right for verdict in verdicts)
        print(f"{part}: {right} of {len(verdicts)} right", file=sys.stderr)

    async with asyncio.TaskGroup() as tasks:
        for clip in shown:
            tasks.create_task(one(clip))
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=("first-light",), default="first-light")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--model", help="default: the bundled model")
    parser.add_argument("--policy", default="window")
    parser.add_argument("--budget", type=int, default=BUDGET, help="tokens of a session")
    parser.add_argument(
        "--drop", type=int, default=0, help="the engine's --drop-threshold: 0 keeps all of every picture"
    )
    parser.add_argument("--head-groups", type=int, default=1, help="groups of heads that keep tokens of their own")
    parser.add_argument("--json", action="store_true", help="everything, not the summary alone")
    parser.add_argument("--out", type=Path, help="also write everything to this file")
    wanted = parser.parse_args()
    began = time.monotonic()
    arm = Arm(wanted.model, wanted.policy, wanted.budget, wanted.drop, wanted.head_groups)
    verdicts = asyncio.run(run(wanted.parts.split(","), wanted.seed, wanted.clips, arm))
    parts = {part: summary(told) for part, told in verdicts.items()}
    result = {
        "command": "python -m bench.quality " + " ".join(sys.argv[1:]),
        "date": today(),
        "hardware": hardware(),
        "seconds": round(time.monotonic() - began),
        "summary": {**parts.pop("sight", {}), **parts},
        "answers": {part: [asdict(verdict) for verdict in told] for part, told in verdicts.items()},
    }
    if wanted.out is not None:
        wanted.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result if wanted.json else result["summary"], indent=None if wanted.json else 1))


if __name__ == "__main__":
    main()
