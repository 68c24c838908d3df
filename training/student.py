"""The model in training: the engine's own modules, helped by small heads that are thrown away afterwards."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.lesson import IGNORED
from training.masks import Attention
from training.world.catalogue import COLOURS, things
from training.world.labels import AGES, HEADINGS, LANES
from workers.models.config import ModelConfig
from workers.models.model import VisionLanguageModel
from workers.models.pixels import PixelFormat
from workers.models.tokenizer import Tokenizer

_DEEP = 3  # decoder layers after which the memory heads read the pictures' tokens; branches can use what is known there
_EMPTY = 0.15  # weight of patches that show nothing, which are most of them


@dataclass(frozen=True, slots=True)
class Outcome:
    """Losses by name, and of every target token (in the order of the batch) whether it was the likeliest one."""

    answer: Tensor
    sight: Tensor
    memory: Tensor
    hits: Tensor

    @property
    def total(self) -> Tensor:
        return self.answer + 0.5 * self.sight + 0.5 * self.memory


class Names(nn.Module):
    """Tells classes apart by their names: a linear map of what was seen is compared with the embeddings of the words.

    What a patch shows and the word for it thus come to lie side by side, which is what looking a word up in a picture
    takes.
    The last class, which stands for nothing, has a vector of its own.
    """

    words: Tensor
    present: Tensor

    def __init__(self, names: list[list[int]], width: int) -> None:
        """`names`: the tokens of each class's name."""
        super().__init__()
        longest = max(map(len, names))
        self.register_buffer("words", torch.tensor([[*name, *[0] * (longest - len(name))] for name in names]), False)
        self.register_buffer(
            "present", torch.tensor([[*[1.0] * len(n), *[0.0] * (longest - len(n))] for n in names]), False
        )
        self.map = nn.Linear(width, width)
        self.nothing = nn.Parameter(torch.zeros(1, width))

    def forward(self, seen: Tensor, embedding: nn.Embedding) -> Tensor:
        """Scores [n, names + 1] of seen [n, width]."""
        spoken = (embedding(self.words) * self.present[..., None]).sum(1) / self.present.sum(1, keepdim=True).sqrt()
        scores: Tensor = self.map(seen) @ torch.cat((spoken, self.nothing)).to(seen.dtype).T
        return scores


class Student(nn.Module):
    """A vision-language model with heads that name each patch's occupant before and amid the decoder."""

    def __init__(self, config: ModelConfig, pixels: PixelFormat, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = VisionLanguageModel(config)
        self._pixels = pixels
        width = config.text.hidden_size
        classes = [tokenizer.encode(f" {thing.name}") for thing in things()]
        colours = [tokenizer.encode(f" {colour}") for colour in COLOURS]
        self.sight = nn.ModuleDict({"now": Names(classes, width), "colour": Names(colours, width)})
        self.recall = nn.ModuleDict({"now": Names(classes, width), "before": Names(classes, width)})
        sizes = {"age": len(AGES) + 1, "heading": HEADINGS, "place": LANES * LANES + 1}
        self.memory = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})
        self._initialise()

    def forward(self, pictures: Tensor, batch: Mapping[str, Tensor], attend: Attention) -> Outcome:
        """Losses for pictures float [B * F, 3, 224, 224] and the arrays of `lesson.stacked` as tensors."""
        grid = (1, pictures.shape[2] // self._pixels.patch_size, pictures.shape[3] // self._pixels.patch_size)
        seen = self.model.vision(self._patches(pictures), grid).flatten(0, 1)
        decoder = self.model.decoder
        tokens, length = batch["tokens"], batch["tokens"].shape[1]
        starts = torch.arange(len(tokens), device=tokens.device)[:, None] * length
        pads = (batch["pads"] + starts).flatten()
        embeds = decoder.embed(tokens.flatten()).to(seen.dtype).index_copy(0, pads, seen)
        rotation = decoder.rope.rotation(batch["positions"].transpose(0, 1).flatten(1))
        x = embeds
        for number, block in enumerate(decoder.layers):
            # Every layer attends alike here, so that one compiled block serves them all.
            x = block(x, 0, rotation, attend, None)
            if number + 1 == _DEEP:
                known = x[pads]
        target = batch["target"].flatten()
        rows = torch.nonzero(target != IGNORED)[:, 0]
        logits = decoder.logits(decoder.norm(x[rows])).float()
        words = decoder.embed_tokens
        place = torch.arange(LANES * LANES, device=x.device).repeat(len(pictures))
        labels = {**batch, "place": place}
        return Outcome(
            answer=F.cross_entropy(logits, target[rows]),
            sight=_sum(_dense(head(seen, words), labels[name]) for name, head in self.sight.items()),
            memory=_sum(_dense(head(known, words), labels[name]) for name, head in self.recall.items())
            + _sum(_dense(head(known), labels[name]) for name, head in self.memory.items()),
            hits=logits.detach().argmax(1) == target[rows],
        )

    def _patches(self, pictures: Tensor) -> Tensor:
        """Normalised single-picture patches, as `PixelFormat.patches` orders them."""
        pixels, count = self._pixels, len(pictures)
        mean, std = (torch.tensor(v, device=pictures.device)[:, None, None] for v in (pixels.mean, pixels.std))
        rows, columns = pixels.grid(pictures.shape[2], pictures.shape[3])
        cut = ((pictures - mean) / std).to(torch.bfloat16 if pictures.is_cuda else torch.float32)
        shape = (count, 3, rows, pixels.merge_size, pixels.patch_size, columns, pixels.merge_size, pixels.patch_size)
        cut = cut.view(shape).permute(0, 2, 5, 3, 6, 1, 4, 7)
        return cut.reshape(count, rows * columns * pixels.merge_size**2, -1)

    def _initialise(self) -> None:
        """Linear layers start with the variance of their width, outputs onto the residual stream smaller by depth."""
        depth = {"vision": self.model.config.vision.depth, "decoder": self.model.config.text.layers}
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Linear):
                onto = name.endswith(("proj", "down_proj")) and "qkv_proj" not in name and "gate_up" not in name
                scale = (2 * depth[name.split(".")[0]]) ** -0.5 if onto else 1.0
                nn.init.normal_(module.weight, std=scale * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        embedding = self.model.decoder.embed_tokens
        nn.init.normal_(embedding.weight, std=embedding.embedding_dim**-0.5)


def _sum(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()


def _dense(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy over patches; those of the last class, which stands for nothing, weigh little."""
    labels = labels.flatten().long()
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    weights = torch.where(labels == logits.shape[1] - 1, _EMPTY, 1.0)
    return (losses * weights).sum() / weights.sum()
