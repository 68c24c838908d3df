"""Session descriptions (RFC 8866), as far as a camera's tell how to receive it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from urllib.parse import urlsplit

STATIC = {  # payload types that need no description, RFC 3551
    0: ("PCMU", 8_000, 1),
    8: ("PCMA", 8_000, 1),
    10: ("L16", 44_100, 2),
    11: ("L16", 44_100, 1),
    26: ("JPEG", 90_000, 1),
}
DEEPEST = 32  # media sections that are looked at


@dataclass
class Section:
    """One ``m=`` section with its first payload type."""

    sort: str
    payload_type: int
    control: str = ""
    encoding: str = ""  # upper case, empty where it is not told
    clock_rate: int = 0
    channels: int = 1
    format: dict[str, str] = field(default_factory=dict)

    def parameter_sets(self, *names: str) -> list[bytes]:
        """The ``sprop-...`` values of these names, decoded; those that are damaged are left out."""
        found: list[bytes] = []
        for text in ",".join(self.format.get(name, "") for name in names).split(","):
            try:
                found.append(base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError):
                continue
        return [data for data in found if data]


@dataclass
class Description:
    control: str
    sections: list[Section]


def parse_description(body: bytes) -> Description:
    """Never raises: lines that make no sense are passed over."""
    description = Description("", [])
    for line in body.decode("utf-8", "replace").splitlines():
        kind, _, value = line.partition("=")
        if kind == "m" and len(description.sections) < DEEPEST:
            description.sections.append(_section(value))
        elif kind == "a" and description.sections:
            _attribute(description.sections[-1], value)
        elif kind == "a" and value.startswith("control:"):
            description.control = value[len("control:") :].strip()
    return description


def _section(value: str) -> Section:
    words = [*value.split(), "", "", "", ""]
    payload_type = _number(words[3])
    encoding, clock_rate, channels = STATIC.get(payload_type, ("", 0, 1))
    return Section(words[0], payload_type, encoding=encoding, clock_rate=clock_rate, channels=channels)


def _attribute(section: Section, value: str) -> None:
    name, _, text = value.partition(":")
    if name == "control":
        section.control = text.strip()
        return
    number, _, rest = text.strip().partition(" ")
    if _number(number) != section.payload_type:
        return
    if name == "rtpmap":
        encoding, rate, channels = [*rest.strip().split("/"), "", ""][:3]
        section.encoding, section.clock_rate = encoding.upper(), _number(rate)
        section.channels = max(_number(channels), 1)
    elif name == "fmtp":
        pairs = (part.partition("=") for part in rest.split(";"))
        section.format = {key.strip().lower(): item.strip() for key, _, item in pairs if key.strip()}


def control_uri(base: str, control: str) -> str:
    """A section's own URI. Servers mean it to be appended to the base, whatever RFC 3986 says of paths."""
    if not control or control == "*":
        return base
    if urlsplit(control).scheme in ("rtsp", "rtsps"):
        return control
    return base.rstrip("/") + "/" + control.lstrip("/")


def _number(text: str) -> int:
    """-1 for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
