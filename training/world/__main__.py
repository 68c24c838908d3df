"""`python -m training.world render`: a video of the synthetic world with its truth."""

import argparse
import json
from pathlib import Path
from random import Random

import torch

from training.world.director import direct
from training.world.renderer import Renderer
from training.world.truth import truth
from training.world.video import encode, pictures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.world", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    render = verbs.add_parser("render", help="write a video and its truth")
    render.add_argument("--seed", type=int, required=True, help="the same seed gives the same video")
    render.add_argument("--seconds", type=float, default=45.0)
    render.add_argument("--rate", type=float, default=10.0, help="pictures a second")
    render.add_argument("--crf", type=int, default=26, help="H.264 quality: lower is better and larger")
    render.add_argument("--out", type=Path, required=True)
    render.add_argument("--truth", type=Path, help="where the truth goes, as JSON")
    wanted = parser.parse_args()
    script = direct(wanted.seed, wanted.seconds)
    encode(pictures(script, wanted.rate, Renderer.on(torch.device("cpu"))), wanted.rate, wanted.out, wanted.crf)
    if wanted.truth is not None:
        wanted.truth.write_text(json.dumps(truth(script, Random(wanted.seed)), indent=1) + "\n", encoding="utf-8")
    print(f"{wanted.out}: {wanted.seconds:g} s, seed {wanted.seed}")


if __name__ == "__main__":
    main()
