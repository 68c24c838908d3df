"""What a gateway and a puller say to each other: length-prefixed msgpack over one socket pair, as with decoders."""

from __future__ import annotations

from typing import Literal

import msgspec

Sort = Literal["video", "audio"]


class Pull(msgspec.Struct, frozen=True, kw_only=True):
    """A puller's only order: speak to whoever is at the other end of the inherited connection.

    ``codecs`` are those that the gateway can have decoded. ``unit_bytes`` bounds one access unit. ``challenges`` are
    what an HTTP server asked of the try before; ``proved`` says that a proof was accepted before. ``fps``: how often a
    camera that has single pictures is asked for the next. ``ca_file`` names who may vouch for the server; empty:
    nothing is encrypted.
    """

    scheme: str
    host: str
    port: int
    path: str
    user: str
    password: str
    challenges: list[str] = []
    proved: bool = False
    fps: float = 1.0
    ca_file: str = ""
    codecs: list[str]
    unit_bytes: int
    memory_bytes: int
    sandbox: bool = True


class TrackInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One track of a source. ``config`` is what a decoder is told out of band, for codecs that need it."""

    sort: Sort
    codec: str  # jpeg, h264, h265, pcm16, opus, aac
    rate: int = 0  # of sound, Hz
    channels: int = 0
    config: bytes = b""


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """The source plays. Its media follow as units; ``tracks`` has at most one of each sort."""

    tracks: list[TrackInfo]


class Unit(msgspec.Struct, frozen=True, kw_only=True, tag="unit"):
    """One access unit (H.26x in Annex B form), one picture, or a piece of sound.

    ``media_us`` counts on a clock that the connection's tracks share. ``lost``: something before it is missing.
    """

    sort: Sort
    media_us: int
    data: bytes
    lost: bool = False


class FileBegins(msgspec.Struct, frozen=True, kw_only=True, tag="file"):
    """The source is a whole file; its bytes follow as pieces. ``size`` is 0 where the server does not say."""

    size: int = 0


class Piece(msgspec.Struct, frozen=True, kw_only=True, tag="piece"):
    data: bytes


class Moved(msgspec.Struct, frozen=True, kw_only=True, tag="moved"):
    """The server says that the source is elsewhere. Last message."""

    location: str


class Challenged(msgspec.Struct, frozen=True, kw_only=True, tag="challenged"):
    """The server wants a proof of user and password, by these ``WWW-Authenticate`` headers. Last message."""

    headers: list[str]


class Again(msgspec.Struct, frozen=True, kw_only=True, tag="again"):
    """The camera has single pictures and closed the connection: the next is due in ``after_s``. Last message."""

    after_s: float


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The source cannot be pulled. ``lasting``: trying again will not help. Last message."""

    reason: str
    lasting: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """The server says that this was all. Last message."""


Report = Opened | Unit | FileBegins | Piece | Moved | Challenged | Again | Refused | Ended

encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Pull).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
