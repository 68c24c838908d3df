"""The bundled model's tokenizer: byte-level BPE over the world's sentences and some English; any text survives it."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.world.catalogue import COLOURS, things
from training.world.director import direct
from training.world.moment import Moment
from training.world.questions import KINDS, ask
from training.world.wordings import ASKED_PLACES, PLACES, QUESTIONS

SIZE = 2048
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_TURNS = "system\nYou are watching a live video.\nuser\nassistant\n"


def build(plain: Path) -> Tokenizer:
    """The tokenizer, trained on the world's sentences and the text file `plain`; the same on every machine."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(itertools.chain(_sentences(), [plain.read_text(encoding="utf-8")]), trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json, as transformers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "additional_special_tokens": list(SPECIAL), "model_max_length": 32768, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _sentences() -> Iterator[str]:
    """What is asked and answered in the world, with every name often enough to become few tokens."""
    yield from [_TURNS] * 200
    fillings = [*COLOURS, *PLACES, *itertools.chain(*ASKED_PLACES)]
    for thing in things():
        spoken = thing.name if thing.family == "card" else f"the {thing.name} {thing.indefinite}"
        yield from [f"It says {thing.name}." if thing.family == "card" else f"Where is {spoken}?"] * 12
        yield from ([f"There are {thing.plural}."] if thing.family == "sprite" else []) * 3
    yield from [f"The circle is {filling}." for filling in fillings] * 20
    for wordings in QUESTIONS.values():
        yield from [text for wording in wordings for text in (wording, wording.lower())] * 20
    rng = Random(0)
    for seed in range(300):
        script = direct(seed, 60.0)
        for _ in range(6):
            moment = Moment(script, rng.uniform(15, 60))
            asked = [question for kind in KINDS if (question := ask(kind, moment, rng))]
            yield from [f"{question.text}\n{question.answer}" for question in asked]


def main() -> None:
    """Writes the tokenizer into models/mini."""
    root = Path(__file__).parents[1]
    write(build(root / "LICENSE"), root / "models" / "mini")


if __name__ == "__main__":
    main()
