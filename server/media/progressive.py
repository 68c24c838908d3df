"""A progressive JPEG without what an eighth of its size does not show. Runs in a decoder process.

At that size a decoder takes one coefficient of a block (the mean), and still it would read all scans, each a pass over
the whole picture.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from server.media.metadata import PARTS, SCAN

PROGRESSIVE = 0xC2  # ITU-T T.81, table B.1, as all JPEG markers here
END, RESTARTS = 0xD9, b"\xff\xdd\x00\x04\x00\x00"  # none within the scans that follow
SCANS_DATA_ENDS = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
MEANS = 0  # where the spectral selection of a scan of means begins
RUN = 0xE0  # ITU-T T.81, table G.1: so many blocks have nothing more, 2 ** 14 and what 14 bits say
LONGEST_RUN = 2**15 - 1
# A Huffman table (B.2.4.2) of the one code 0, which means the above.
TABLE = b"\xff\xc4" + struct.pack("!HB16B", 20, 0x10, 1, *[0] * 15) + bytes([RUN])


class _Component(NamedTuple):
    """Of a frame header (B.2.2): sampling factors of ``number``."""

    number: int
    across: int
    down: int


def coarse(data: bytes) -> bytes:
    """The picture with its blocks' means alone; of another kind, or cut short, as it is.

    All other coefficients are stated to be zero: a decoder would guess at what it never hears of. Components that are
    sampled less than others keep theirs: of them an eighth of the picture shows more than means.

    Args:
        data: without metadata, from its first byte on.
    """
    kept, at, frame = [data[:2]], 2, b""
    full: dict[int, _Component] = {}
    for _ in range(PARTS):
        if data[at : at + 1] != b"\xff":
            return data
        marker = data[at + 1]
        if marker == END:
            return b"".join([*kept, RESTARTS, TABLE, *_empty_scans(frame, full), data[at:]])
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        unseen = False
        if marker == SCAN:
            follows = SCANS_DATA_ENDS.search(data, end)
            if follows is None or not full:
                return data
            unseen = data[end - 3] != MEANS and data[at + 5] in full
            end = follows.start()
        elif marker == PROGRESSIVE:
            frame = data[at + 4 : end]
            full = {component.number: component for component in _most_sampled(frame)}
        if not unseen:
            kept.append(data[at:end])
        at = end
    return data


def _most_sampled(frame: bytes) -> list[_Component]:
    """The components of which an eighth of the picture shows one value a block."""
    stated = struct.iter_unpack("!BBB", frame[6 : 6 + 3 * frame[5]])
    components = [_Component(number, factors >> 4, factors & 15) for number, factors, _ in stated]
    across, down = max(c.across for c in components), max(c.down for c in components)
    return [component for component in components if component[1:] == (across, down)]


def _empty_scans(frame: bytes, components: Mapping[int, _Component]) -> Iterator[bytes]:
    """A scan for each component, which says that its blocks have nothing but means."""
    height, width = struct.unpack_from("!xHH", frame)
    blocks = -(-width // 8) * -(-height // 8)
    for number in components:
        yield struct.pack("!HHBBBBBB", 0xFF00 | SCAN, 8, 1, number, 0, 1, 63, 0) + _runs(blocks)


def _runs(blocks: int) -> bytes:
    """Entropy-coded: ``blocks`` blocks without further coefficients, rounded up."""
    runs = -(-blocks // LONGEST_RUN)
    bits = "0" + "1" * 14
    text = bits * runs
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")
