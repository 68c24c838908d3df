"""Which tracks of a camera are taken, and what puts their packets together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from server.sources.h26x import H264, H265, Grammar, UnitAssembler
from server.sources.messages import Sort, TrackInfo
from server.sources.payloads import Assembler
from server.sources.pictures import JpegAssembler
from server.sources.sdp import Section
from server.sources.sounds import AacAssembler, OpusAssembler, PcmAssembler, a_law, big_endian, companded, mu_law

VIDEO_RATE = 90_000


@dataclass(frozen=True)
class Format:
    """A track as it is taken."""

    info: TrackInfo
    clock_rate: int
    assembler: Assembler


def format_of(section: Section, codecs: Collection[str], unit_bytes: int) -> Format | None:
    """None for what is not taken: another kind of media, or a codec that is not among ``codecs``."""
    make = {"video": _picture_format, "audio": _sound_format}.get(section.sort)
    found = None if make is None else make(section, unit_bytes)
    return found if found is not None and found.info.codec in codecs else None


def _picture_format(section: Section, unit_bytes: int) -> Format | None:
    assembler: Assembler
    match section.encoding:
        case "H264" if section.format.get("packetization-mode", "0") in ("0", "1"):
            assembler = _units(H264, section, unit_bytes, "sprop-parameter-sets")
            codec = "h264"
        case "H265":
            assembler = _units(H265, section, unit_bytes, "sprop-vps", "sprop-sps", "sprop-pps")
            codec = "h265"
        case "JPEG":
            assembler, codec = JpegAssembler(unit_bytes), "jpeg"
        case _:
            return None
    return Format(TrackInfo(sort="video", codec=codec), VIDEO_RATE, assembler)


def _units(grammar: Grammar, section: Section, unit_bytes: int, *names: str) -> UnitAssembler:
    return UnitAssembler(grammar, section.parameter_sets(*names), unit_bytes)


def _sound_format(section: Section, unit_bytes: int) -> Format | None:
    rate, channels = section.clock_rate, section.channels
    if rate <= 0:
        return None
    match section.encoding:
        case "PCMU":
            return _sound("pcm16", rate, channels, PcmAssembler(companded(mu_law), rate, channels))
        case "PCMA":
            return _sound("pcm16", rate, channels, PcmAssembler(companded(a_law), rate, channels))
        case "L16":
            return _sound("pcm16", rate, channels, PcmAssembler(big_endian, rate, channels))
        case "OPUS":
            return _sound("opus", rate, channels, OpusAssembler())
        case "MPEG4-GENERIC":
            return _aac(section)
        case _:
            return None


def _aac(section: Section) -> Format | None:
    parameters = section.format
    try:
        config = bytes.fromhex(parameters.get("config", ""))
        size_bits, index_bits = int(parameters.get("sizelength", "0")), int(parameters.get("indexlength", "0"))
        assembler = AacAssembler(config, size_bits, index_bits)
    except ValueError:
        return None
    return _sound("aac", section.clock_rate, section.channels, assembler)


def _sound(codec: str, rate: int, channels: int, assembler: Assembler) -> Format:
    sort: Sort = "audio"
    return Format(TrackInfo(sort=sort, codec=codec, rate=rate, channels=channels), rate, assembler)
