"""`python -m training.evaluate`: the suite's videos and questions straight through the model, without a server.

Videos are encoded as H.264 and decoded again; one picture a second is seen. Prints JSON alone to standard output.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

from training.listener import Listener
from training.world.renderer import Renderer
from training.world.scoring import Verdict, judge, summary
from training.world.suite import Clip, clips, long_clip
from training.world.video import access_units, pictures
from workers.models.checkpoint import open_checkpoint
from workers.perception.changes import USUAL_WHOLE, ChangeFilter

_RATE = 5.0


def watch(clip: Clip, listener: Listener, renderer: Renderer, *, blind: bool) -> list[Verdict]:
    """Verdicts on the answers to a clip's questions, each asked when the pictures up to its time have been seen."""
    pending = list(clip.questions)
    verdicts = []
    for index, picture in enumerate(_seconds(clip, renderer, blind=blind)):
        while pending and pending[0].time < index:
            question = pending.pop(0)
            verdicts.append(judge(question, listener.ask(question.text)))
        if not pending:
            break
        listener.see(picture, 1000 * index)
    verdicts += [judge(question, listener.ask(question.text)) for question in pending]
    return verdicts


def _seconds(clip: Clip, renderer: Renderer, *, blind: bool) -> Iterator[NDArray[np.uint8]]:
    """One picture of each second, as the codec gives it back."""
    decoder = av.VideoCodecContext.create("h264", "r")
    decoder.thread_count = 1
    units = access_units(pictures(clip.script, _RATE, renderer, blind=blind), _RATE)
    packets = itertools.chain((av.Packet(unit) for unit in units), [None])
    frames = itertools.chain.from_iterable(map(decoder.decode, packets))
    for frame in itertools.islice(frames, 0, None, round(_RATE)):
        yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/mini"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--window", type=int, default=46, help="pictures that the trunk keeps")
    parser.add_argument(
        "--age", type=float, default=0.0, help="one long video instead, asked about from this second on"
    )
    parser.add_argument("--blind", action="store_true", help="grey pictures in place of the videos")
    parser.add_argument("--weights", choices=("fp8",), help="as of a server; default: in full")
    parser.add_argument("--drop", type=int, default=0, help="the engine's --drop-threshold: 0 keeps all of a picture")
    parser.add_argument(
        "--drop-whole", type=int, default=USUAL_WHOLE, help="with --drop: of so many pictures one is seen whole"
    )
    parser.add_argument("--whole-windows", action="store_true", help="with --drop: encode also what stands still")
    parser.add_argument("--answers", type=Path, help="where every question and answer goes, as JSON")
    wanted = parser.parse_args()
    checkpoint, renderer = open_checkpoint(wanted.model, weights=wanted.weights), Renderer.on(torch.device("cpu"))
    if wanted.age:
        shown = [long_clip(wanted.seed, 5 * wanted.clips, wanted.age, every=4.5)]
    else:
        shown = clips(wanted.seed, wanted.clips)
    changes = ChangeFilter(wanted.drop, wanted.drop_whole) if wanted.drop else None
    streams = int(bool(wanted.drop) and not wanted.whole_windows)
    verdicts: list[Verdict] = []
    for number, clip in enumerate(shown):
        listener = Listener(checkpoint, wanted.window, changes=changes, streams=streams)
        verdicts += watch(clip, listener, renderer, blind=wanted.blind)
        print(
            f"{number + 1} of {len(shown)}: {sum(v.right for v in verdicts)} of {len(verdicts)} right", file=sys.stderr
        )
    if wanted.answers is not None:
        wanted.answers.write_text(
            json.dumps([asdict(verdict) for verdict in verdicts], indent=1) + "\n", encoding="utf-8"
        )
    print(json.dumps(summary(verdicts)))


if __name__ == "__main__":
    main()
