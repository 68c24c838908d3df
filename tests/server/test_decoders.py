"""Decoder processes on real bytes, good and bad."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import signal
import struct
import sys
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from server.media.codecs import NAL_UNITS
from server.media.decoders import Decoder, DecoderLost, Nursery
from server.media.jobs import (
    Done,
    Failed,
    File,
    Flush,
    Job,
    Opened,
    Pcm,
    PictureOut,
    Result,
    Setup,
    SoundOut,
    SoundUnit,
    Still,
    StillCodec,
    Unit,
)
from server.media.stills import SCANS, START_OF_SCAN
from tests.server.fake_worker import colour_of
from tests.server.formats.footage import sound_packets
from tests.server.wire import h264_units, picture, until, video_file

pytestmark = pytest.mark.e2e

SETUP = Setup(
    width=64,
    height=48,
    fps=2.0,
    quality=90,
    max_pixels=4_000_000,
    max_video_pixels=4_000_000,
    memory_bytes=256 << 20,
    cpu_seconds=5,
)
LIMIT_S = 10.0


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    async with Nursery() as nursery:
        yield nursery


@pytest.fixture
async def decoder(nursery: Nursery) -> AsyncIterator[Decoder]:
    decoder = await nursery.spawn(SETUP)
    yield decoder
    await decoder.close()


async def results(decoder: Decoder, job: Job) -> list[Result]:
    return [result async for result in decoder.run(job, LIMIT_S)]


def pictures(found: list[Result]) -> list[tuple[int, str]]:
    return [(result.t_ms, colour_of(result.jpeg)) for result in found if isinstance(result, PictureOut)]


@pytest.mark.parametrize(("codec", "form"), [("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
async def test_pictures_come_out_as_jpeg_of_the_models_size(decoder: Decoder, codec: StillCodec, form: str) -> None:
    out, done = await results(decoder, Still(codec=codec, t_ms=7, data=picture("red", form, (640, 480))))
    assert isinstance(out, PictureOut)
    assert (out.t_ms, out.width, out.height, colour_of(out.jpeg)) == (7, 64, 48, "red")
    assert out.jpeg.startswith(b"\xff\xd8\xff")
    assert done == Done()


async def test_a_picture_is_turned_upright(decoder: Decoder) -> None:
    image = Image.new("RGB", (40, 80), "red")
    image.paste((0, 0, 255), (0, 40, 40, 80))
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    found, _ = await results(decoder, Still(codec="jpeg", t_ms=0, data=out.getvalue()))
    assert isinstance(found, PictureOut)
    upright = Image.open(io.BytesIO(found.jpeg)).convert("RGB")
    assert upright.getpixel((32, 5))[2] > 200  # type: ignore[index]
    assert upright.getpixel((32, 43))[0] > 200  # type: ignore[index]


async def test_units_are_all_decoded_and_the_wanted_come_out(decoder: Decoder) -> None:
    found: list[Result] = []
    for number, unit in enumerate(h264_units(["red", "lime", "blue", "white"])):
        found += await results(decoder, Unit(track=3, t_ms=100 * number, data=unit, keep=number % 2 == 0))
    found += await results(decoder, Flush())
    assert pictures(found) == [(0, "red"), (200, "blue")]
    assert {out.track for out in found if isinstance(out, PictureOut)} == {3}


async def test_after_a_lost_or_broken_unit_decoding_waits_for_a_key_frame(decoder: Decoder) -> None:
    units = h264_units(["red"] * 4 + ["blue"] * 4, key_every=4)
    wants = []
    for number, data in enumerate([units[1], units[0], units[1], bytes(50), units[2], units[4], units[5]]):
        found = await results(decoder, Unit(track=0, t_ms=number, data=data, keep=True))
        wants.append(found[-1])
    assert [isinstance(last, Done) and last.need_keyframe for last in wants] == [
        True,
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    last = await results(decoder, Unit(track=0, t_ms=9, data=units[6], keep=True, fresh=True))
    assert last == [Done(need_keyframe=True)]


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (8_000, 1), (44_100, 2)])
async def test_sound_becomes_sixteen_kilohertz_mono_in_pieces(decoder: Decoder, rate: int, channels: int) -> None:
    found: list[Result] = []
    for tenth in range(10):
        data = bytes(2 * channels * (rate // 10))
        found += await results(decoder, Pcm(track=1, t_ms=500 + 100 * tenth, rate=rate, channels=channels, data=data))
    found += await results(decoder, Flush())
    sounds = [result for result in found if isinstance(result, SoundOut)]
    assert [sound.t_ms for sound in sounds[:10]] == [500 + 100 * number for number in range(10)]
    assert {len(sound.pcm) for sound in sounds[:9]} == {3200}
    assert sum(len(sound.pcm) for sound in sounds) == pytest.approx(32_000, abs=100)


async def test_a_gap_in_sound_starts_a_new_run(decoder: Decoder) -> None:
    found: list[Result] = []
    for t_ms in (0, 50, 5000):
        found += await results(decoder, Pcm(track=1, t_ms=t_ms, rate=16_000, channels=1, data=bytes(1600)))
    found += await results(decoder, Flush())
    sounds = [(result.t_ms, len(result.pcm)) for result in found if isinstance(result, SoundOut)]
    assert sounds == [(0, 3200), (5000, 1600)]


async def test_a_file_whose_index_is_at_its_end(nursery: Nursery) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(video_file(["red"] * 4 + ["blue"] * 4, sound=True))
        file.seek(0)
        decoder = await nursery.spawn(SETUP, file.fileno())
        found = await results(decoder, File(demuxer="mp4"))
        await decoder.close()
    assert isinstance(found[0], Opened)
    assert found[0].audio
    assert pictures(found) == [(0, "red"), (500, "red"), (1000, "blue"), (1500, "blue")]
    assert found[-1] == Done(duration_ms=2000)
    assert sum(isinstance(result, SoundOut) for result in found) == pytest.approx(20, abs=1)


@pytest.mark.parametrize("seed", range(5))
async def test_garbage_is_refused_and_the_decoder_goes_on(decoder: Decoder, seed: int) -> None:
    source = random.Random(seed)
    red = picture("red")
    codecs: list[StillCodec] = ["jpeg", "png", "webp"]
    for codec in codecs:
        for data in (source.randbytes(2000), picture("red", codec)[:60], b""):
            assert isinstance((await results(decoder, Still(codec=codec, t_ms=0, data=data)))[-1], Failed)
    for _ in range(10):
        damaged = bytearray(red)
        for _ in range(5):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        found = await results(decoder, Still(codec="jpeg", t_ms=0, data=bytes(damaged)))
        assert isinstance(found[-1], Done | Failed)
    odd = await results(decoder, Pcm(track=1, t_ms=0, rate=16_000, channels=1, data=b"odd"))
    assert isinstance(odd[-1], Failed)
    assert pictures(await results(decoder, Still(codec="jpeg", t_ms=1, data=red))) == [(1, "red")]


async def test_more_pixels_than_allowed_are_refused_by_the_decoder_too(decoder: Decoder) -> None:
    large = picture("red", "PNG", (2001, 2000))
    refused = (await results(decoder, Still(codec="png", t_ms=0, data=large)))[-1]
    assert isinstance(refused, Failed)
    assert refused.code == "too_large"
    unit = h264_units(["red"], size=(2048, 2048))[0]
    assert (await results(decoder, Unit(track=0, t_ms=0, data=unit, keep=True)))[-1] == Done(need_keyframe=True)


@pytest.mark.parametrize(("scans", "code"), [(SCANS, ""), (SCANS + 30, "too_large")])
async def test_a_progressive_picture_has_so_many_scans(decoder: Decoder, scans: int, code: str) -> None:
    """Small to send, and dear: a flat picture's scan is a few bytes."""
    out = io.BytesIO()
    Image.new("RGB", (2000, 1990), "red").save(out, "JPEG", progressive=True)
    whole = out.getvalue()
    last = whole.rindex(START_OF_SCAN)
    more = scans - whole.count(START_OF_SCAN)
    bomb = whole[:-2] + whole[last:-2] * more + whole[-2:]
    end = (await results(decoder, Still(codec="jpeg", t_ms=0, data=bomb)))[-1]
    assert (end.code if isinstance(end, Failed) else "") == code


async def test_a_unit_has_so_many_nal_units_and_no_more(decoder: Decoder) -> None:
    unit, following = h264_units(["red", "red"])
    crowd = unit + b"\x00\x00\x01\x09\xf0" * NAL_UNITS
    refused = (await results(decoder, Unit(track=0, t_ms=0, data=crowd, keep=True)))[-1]
    assert isinstance(refused, Failed)
    assert "NAL units" in refused.message
    assert await results(decoder, Unit(track=0, t_ms=1, data=following, keep=True)) == [Done(need_keyframe=True)]
    found = await results(decoder, Unit(track=0, t_ms=2, data=unit, keep=True))
    assert pictures(found) == [(2, "red")]
    empty = bytes.fromhex("000001") * (NAL_UNITS + 1)
    for codec in ("vp8", "av1"):  # their bytes are no start codes
        job = Unit(codec=codec, track=1, t_ms=0, data=empty, keep=True)
        assert await results(decoder, job) == [Done(need_keyframe=True)]


def jpeg_with(segment: bytes) -> bytes:
    """A good picture with ``segment`` before its first scan."""
    red = picture("red")
    at = red.index(START_OF_SCAN)
    return red[:at] + segment * ((6 << 20) // len(segment)) + red[at:]


def jpeg_with_directory(marker: int, sign: bytes) -> bytes:
    """A good picture with a TIFF directory whose five thousand entries all mean the same 50 kB, as 16-bit numbers."""
    entries = b"".join(struct.pack("<HHII", tag, 3, 25_000, 8) for tag in range(0xB000, 0xB000 + 5_000))
    body = sign + struct.pack("<2sHIH", b"II", 42, 8, 5_000) + entries
    red = picture("red")
    return red[:2] + struct.pack("!HH", marker, 2 + len(body)) + body + red[2:]


def png_with(kind: bytes, body: bytes) -> bytes:
    red = picture("red", "PNG")
    chunk = struct.pack("!I", len(body)) + kind + body + struct.pack("!I", zlib.crc32(kind + body))
    return red[:33] + chunk * ((6 << 20) // len(chunk)) + red[33:]


PHOTOSHOP = b"Photoshop 3.0\0" + b"8BIM".ljust(12, b"\0") * 5_000
DEAR: dict[str, tuple[StillCodec, Callable[[], bytes], bool]] = {
    "empty segments": ("jpeg", lambda: jpeg_with(b"\xff\xe0\x00\x02"), False),
    "fill": ("jpeg", lambda: jpeg_with(b"\xff"), False),
    "padding": ("jpeg", lambda: jpeg_with(b"\x00"), True),
    "photoshop": ("jpeg", lambda: jpeg_with(b"\xff\xed" + struct.pack("!H", 2 + len(PHOTOSHOP)) + PHOTOSHOP), True),
    "tables": ("jpeg", lambda: jpeg_with(b"\xff\xdb" + struct.pack("!H", 65_002) + bytes(65_000)), False),
    "pictures": ("jpeg", lambda: jpeg_with_directory(0xFFE2, b"MPF\0"), True),
    "exif": ("jpeg", lambda: jpeg_with_directory(0xFFE1, b"Exif\0\0"), True),
    "texts": ("png", lambda: png_with(b"tEXt", b"k\0v"), False),
    "empty chunks": ("png", lambda: png_with(b"IDAT", b""), False),
    "long texts": ("png", lambda: png_with(b"iTXt", b"k\0\0\0\0\0" + bytes(5000)), True),
}


@pytest.mark.parametrize("kind", DEAR)
async def test_metadata_cost_next_to_nothing(nursery: Nursery, kind: str) -> None:
    """Pillow would take seconds to read most of these."""
    codec, make, read = DEAR[kind]
    decoder = await nursery.spawn(msgspec.structs.replace(SETUP, cpu_seconds=0.25))
    found = await results(decoder, Still(codec=codec, t_ms=0, data=make()))
    assert pictures(found) == ([(0, "red")] if read else [])
    assert pictures(await results(decoder, Still(codec="jpeg", t_ms=1, data=picture("red")))) == [(1, "red")]
    await decoder.close()


async def test_a_chunk_of_aac_is_one_frame(decoder: Decoder) -> None:
    frame, following = sound_packets("aac", 1.0, adts=True)[:2]
    for data in (frame + following, frame[:-1], frame[1:], b""):
        (refused,) = await results(decoder, SoundUnit(codec="aac", track=0, t_ms=0, data=data))
        assert isinstance(refused, Failed)
    assert (await results(decoder, SoundUnit(codec="aac", track=0, t_ms=0, data=frame)))[-1] == Done()


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no such limit")
async def test_memory_has_a_limit(nursery: Nursery) -> None:
    small = await nursery.spawn(msgspec.structs.replace(SETUP, memory_bytes=100 << 20, max_pixels=100_000_000))
    large = picture("red", "PNG", (9000, 9000))
    try:
        found = await results(small, Still(codec="png", t_ms=0, data=large))
        assert isinstance(found[-1], Failed)
    except DecoderLost:
        pass
    await small.close()


async def test_processor_time_for_one_picture_has_a_limit(nursery: Nursery) -> None:
    hasty = await nursery.spawn(msgspec.structs.replace(SETUP, cpu_seconds=0.02))
    assert pictures(await results(hasty, Still(codec="png", t_ms=0, data=picture("red", "PNG")))) == [(0, "red")]
    with pytest.raises(DecoderLost):
        await results(hasty, Still(codec="png", t_ms=1, data=picture("red", "PNG", (2000, 2000))))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_a_decoder_holds_nothing_of_the_gateways(decoder: Decoder) -> None:
    await results(decoder, Flush())
    held = {os.readlink(f"/proc/{decoder.pid}/fd/{number}") for number in os.listdir(f"/proc/{decoder.pid}/fd")}
    assert len([name for name in held if name.startswith("socket:")]) == 1
    assert held - {name for name in held if name.startswith("socket:")} == {"/dev/null"}
    environment = Path(f"/proc/{decoder.pid}/environ").read_text()  # noqa: ASYNC240 - /proc does not block
    names = {entry.partition("=")[0] for entry in environment.split("\0")}
    assert names <= {"PATH", "MALLOC_ARENA_MAX", "LC_CTYPE", ""}


async def test_a_decoder_that_hangs_is_killed_and_another_takes_its_place(nursery: Nursery, decoder: Decoder) -> None:
    os.kill(decoder.pid, signal.SIGSTOP)
    with pytest.raises(DecoderLost):
        async for _ in decoder.run(Flush(), 0.2):
            pass
    with pytest.raises(DecoderLost):
        await results(decoder, Flush())
    fresh = await nursery.spawn(SETUP)
    assert pictures(await results(fresh, Still(codec="jpeg", t_ms=0, data=picture("red")))) == [(0, "red")]
    await fresh.close()


async def test_a_nursery_that_dies_is_started_again(nursery: Nursery) -> None:
    first = await nursery.spawn(SETUP)
    assert nursery._forker is not None
    nursery._forker._process.kill()
    nursery._forker._process.wait()
    second = await nursery.spawn(SETUP)
    assert nursery.restarts == 1
    assert pictures(await results(second, Still(codec="jpeg", t_ms=0, data=picture("red")))) == [(0, "red")]
    await first.close()
    await second.close()


async def test_a_nursery_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nraise SystemExit('No module named av')")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(DecoderLost, match="does not answer: No module named av"):
        async with Nursery():
            pass


async def test_who_stops_waiting_for_a_decoder_leaves_no_reply_to_the_next(nursery: Nursery) -> None:
    """Sessions end while their decoder is being forked: what was asked then must not be answered to another."""
    for _ in range(5):
        spawning = asyncio.create_task(nursery.spawn(SETUP))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        spawning.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await spawning).close()
    decoder = await nursery.spawn(SETUP)
    await decoder.kill()
    with pytest.raises(DecoderLost):
        await results(decoder, Flush())
    stat = Path(f"/proc/{decoder.pid}/stat")

    async def ended() -> bool:
        return not stat.exists() or stat.read_text().rsplit(") ", 1)[1][0] == "Z"  # noqa: ASYNC240 - no disk is read

    await until(ended)
