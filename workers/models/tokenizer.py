"""Byte-level BPE tokenizers (Qwen, Llama 3) from a Hugging Face folder, and streaming detokenisation."""

import codecs
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from workers.models.chat import SpecialTokens
from workers.models.errors import TokenizerError

_SPECIAL_NAMES = {field: f"<|{field}|>" for field in SpecialTokens.__dataclass_fields__}


class Tokenizer:
    """Encodes plain text, decodes ids, and knows the special tokens.

    Special tokens exist only as ids: `encode` was built without them, so that no text a user sends can turn into one.
    """

    def __init__(self, definition: Mapping[str, Any]) -> None:
        """`definition`: the content of tokenizer.json. TokenizerError if it is not byte-level BPE or lacks a token."""
        added = {entry["id"]: entry for entry in definition.get("added_tokens", [])}
        self.special = _special_tokens({entry["content"]: token for token, entry in added.items()})
        if not _is_byte_level(definition):
            raise TokenizerError("tokenizer.json is not byte-level BPE; only Qwen and Llama 3 style tokenizers load")
        plain = {**definition, "added_tokens": [], "post_processor": None}
        try:
            self._plain = tokenizers.Tokenizer.from_str(json.dumps(plain))
        except Exception as error:  # the library raises bare Exception for whatever it cannot read
            raise TokenizerError(f"tokenizer.json cannot be read: {error}") from error
        self._bytes = _vocabulary_bytes(self._plain.get_vocab())
        for token, entry in added.items():
            self._bytes[token] = b"" if entry["special"] else entry["content"].encode()

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """The tokenizer of a checkpoint's folder. TokenizerError if tokenizer.json is missing or unusable."""
        path = folder / "tokenizer.json"
        try:
            definition = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise TokenizerError(f"{path} is missing; the folder needs the tokenizer.json of its checkpoint") from error
        except ValueError as error:
            raise TokenizerError(f"{path} is not JSON: {error}") from error
        return cls(definition)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self._bytes) + 1

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; `<|im_end|>` inside it is ten characters like any others."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, special tokens left out, broken UTF-8 shown as U+FFFD."""
        return b"".join(self.token_bytes(token) for token in ids).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; none for special tokens and for ids beyond the vocabulary."""
        return self._bytes.get(token, b"")

    def stream(self) -> "Detokenizer":
        """A detokenizer for one answer."""
        return Detokenizer(self)


class Detokenizer:
    """Turns one answer's tokens into text as they come; the pieces add up to `decode` of all of them.

    A character whose bytes come in several tokens appears with the last of them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that became complete with this token; often empty."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left at the end of the answer: U+FFFD if it stopped inside a character, else nothing."""
        return self._decoder.decode(b"", final=True)


def _special_tokens(ids: Mapping[str, int]) -> SpecialTokens:
    missing = [name for name in _SPECIAL_NAMES.values() if name not in ids]
    if missing:
        raise TokenizerError(f"tokenizer.json lacks the special tokens {', '.join(missing)}")
    return SpecialTokens(**{field: ids[name] for field, name in _SPECIAL_NAMES.items()})


def _is_byte_level(definition: Mapping[str, Any]) -> bool:
    decoder = definition.get("decoder") or {}
    stages = decoder.get("decoders", [decoder])
    return definition.get("model", {}).get("type") == "BPE" and any(s.get("type") == "ByteLevel" for s in stages)


def _vocabulary_bytes(vocabulary: Mapping[str, int]) -> dict[int, bytes]:
    alphabet = _byte_alphabet()
    return {
        token: bytes(alphabet[letter] for letter in word)
        for word, token in vocabulary.items()
        if all(letter in alphabet for letter in word)
    }


def _byte_alphabet() -> dict[str, int]:
    """The printable letter that stands for each byte in byte-level vocabularies (GPT-2): itself, or 256 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unprintable = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(unprintable)}
