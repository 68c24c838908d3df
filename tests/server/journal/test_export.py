"""Clips of every codec that an MP4 takes as it is, against a reference decode; made in real decoder processes."""

from __future__ import annotations

import io
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from PIL import Image

from protocol.errors import BadMedia, NotFound
from server.journal.entries import Head, Kind
from server.journal.export import Clip, Exporter
from server.journal.recording import Recording
from server.journal.vault import SessionKey
from server.media.decoders import Nursery
from server.settings import Settings
from tests.server.journal import scenes
from tests.server.journal.shelf import SESSION, Shelf, frame, make_shelf

pytestmark = pytest.mark.e2e


@pytest.fixture
async def exporter() -> AsyncIterator[Exporter]:
    async with Nursery() as nursery:
        yield Exporter(nursery, Settings())
        assert len(nursery) == 0


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return make_shelf(tmp_path, segment_bytes=30_000)


@pytest.fixture
def key(shelf: Shelf) -> SessionKey:
    return shelf.custodian.admit(SESSION, "alice", None)


def jpeg(number: int) -> bytes:
    out = io.BytesIO()
    scenes.scene(number).save(out, "JPEG", quality=95)
    return out.getvalue()


def record(shelf: Shelf, key: SessionKey, codec: str, units: list[bytes], *, track: int = 0, first_ms: int = 0) -> None:
    """Units ``scenes.RATE`` a second, and a frame of each tenth."""
    for number, data in enumerate(units):
        t_ms = first_ms + 1000 * number // scenes.RATE
        shelf.put(key, (Head(Kind.MEDIA, t_ms, track, codec, sequence=number), data))
        if number % 10 == 0:
            shelf.put(key, frame(t_ms, jpeg(number), track))


async def made(clip: Clip) -> list[tuple[float, scenes.Pixels]]:
    try:
        return scenes.played(b"".join([piece async for piece in clip.pieces()]))
    finally:
        await clip.close()


async def taken(exporter: Exporter, reading: Recording, from_ms: int, to_ms: int, track: int | None = None) -> Clip:
    return await exporter.clip(reading, track, from_ms, to_ms)


@pytest.mark.parametrize("codec", ["h264", "h265", "vp9", "av1"])
async def test_units_are_put_into_the_clip_as_they_came(
    exporter: Exporter, shelf: Shelf, key: SessionKey, codec: str
) -> None:
    units = scenes.units(codec, 50)
    record(shelf, key, codec, units)
    clip = await taken(exporter, shelf.reading(key), 1_350, 3_820)
    assert (clip.start_ms, clip.source) == (1_000, "media")
    reference = scenes.decoded(units, codec)
    pictures = await made(clip)
    assert [round(second, 3) for second, _ in pictures] == [number / 10 for number in range(29)]
    assert min(scenes.psnr(shown, reference[10 + n]) for n, (_, shown) in enumerate(pictures)) > 60


async def test_parameter_sets_that_came_once_are_found_again(exporter: Exporter, shelf: Shelf, key: SessionKey) -> None:
    units = scenes.units("h264", 30)
    starts = [unit.index(b"\0\0\1\x65") if b"\0\0\1\x65" in unit else 0 for unit in units]
    bare = [units[0], *(unit[start:] for unit, start in zip(units[1:], starts[1:], strict=True))]
    sets = units[0][: starts[0]]
    assert b"\0\0\1\x67" in sets
    assert b"\0\0\1\x67" not in bare[10]
    shelf.put(key, (Head(Kind.MEDIA, 0, 0, "h264"), bare[0]), (Head(Kind.PREAMBLE, 0, 0, "h264"), sets))
    for number, data in enumerate(bare[1:], 1):
        shelf.put(key, (Head(Kind.MEDIA, 100 * number, 0, "h264", sequence=number), data))
    clip = await taken(exporter, shelf.reading(key), 2_000, 2_900)
    reference = scenes.decoded(units, "h264")
    pictures = await made(clip)
    assert (clip.start_ms, len(pictures)) == (2_000, 10)
    assert min(scenes.psnr(shown, reference[20 + n]) for n, (_, shown) in enumerate(pictures)) > 60


async def test_after_a_missing_unit_the_clip_goes_on_with_the_next_key_frame(
    exporter: Exporter, shelf: Shelf, key: SessionKey
) -> None:
    units = scenes.units("h264", 40)
    for number, data in enumerate(units):
        if number != 15:
            shelf.put(key, (Head(Kind.MEDIA, 100 * number, 0, "h264", sequence=number), data))
    reference = scenes.decoded(units, "h264")
    pictures = await made(await taken(exporter, shelf.reading(key), 1_000, 2_400))
    numbers = [*range(10, 15), *range(20, 25)]
    assert [round(10 * second) + 10 for second, _ in pictures] == numbers
    assert min(scenes.psnr(shown, reference[n]) for n, (_, shown) in zip(numbers, pictures, strict=True)) > 60


@pytest.mark.parametrize("codec", ["vp8", "reordered"])
async def test_what_an_mp4_does_not_take_is_encoded_from_frames(
    exporter: Exporter, shelf: Shelf, key: SessionKey, codec: str
) -> None:
    units = scenes.units("vp8", 40) if codec == "vp8" else scenes.units("h264", 40, reorder=True)
    record(shelf, key, "vp8" if codec == "vp8" else "h264", units)
    clip = await taken(exporter, shelf.reading(key), 1_500, 3_000)
    assert (clip.start_ms, clip.source) == (1_500, "frames")
    pictures = await made(clip)
    assert [round(second, 3) for second, _ in pictures] == [0.0, 0.5, 1.5]
    for number, (_, shown) in zip((10, 20, 30), pictures, strict=True):
        assert scenes.psnr(shown, scenes.pixels_of(jpeg(number))) > 30
    assert scenes.psnr(pictures[0][1], scenes.pixels_of(jpeg(20))) < 25


async def test_a_camera_of_several_is_chosen(exporter: Exporter, shelf: Shelf, key: SessionKey) -> None:
    units = scenes.units("h264", 20)
    record(shelf, key, "h264", units, track=1)
    record(shelf, key, "h264", units[:11], track=2, first_ms=500)
    assert len(await made(await taken(exporter, shelf.reading(key), 0, 5_000))) == 20
    clip = await taken(exporter, shelf.reading(key), 0, 5_000, track=2)
    assert (clip.start_ms, len(await made(clip))) == (500, 11)
    with pytest.raises(NotFound):
        await taken(exporter, shelf.reading(key), 0, 5_000, track=3)
    with pytest.raises(NotFound):
        await taken(exporter, shelf.reading(key), 2_500, 5_000)


@pytest.mark.parametrize("seed", range(6))
async def test_stored_bytes_may_be_hostile(exporter: Exporter, shelf: Shelf, key: SessionKey, seed: int) -> None:
    """Whatever lies there, the clip is made or refused, or breaks off; the next one is made as ever."""
    source = random.Random(seed)
    units = scenes.units(source.choice(["h264", "h265", "vp9", "av1"]), 20)
    codec = source.choice(["h264", "h265", "vp9", "av1"])
    for number, data in enumerate(units):
        damaged = bytearray(data)
        for _ in range(source.randrange(20)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        shelf.put(key, (Head(Kind.MEDIA, 100 * number, 0, codec, sequence=number), bytes(damaged)))
    shelf.put(key, frame(0, source.randbytes(500)), frame(50, jpeg(0)[:300]))
    try:
        clip = await taken(exporter, shelf.reading(key), 0, 3_000)
        try:
            assert [piece async for piece in clip.pieces()]
        finally:
            await clip.close()
    except (BadMedia, NotFound):
        pass
    with pytest.raises(BadMedia):
        await exporter.thumbnail(source.randbytes(300), 32)
    other = replace(key, session_id=f"s_{'c' * 24}")
    shelf.custodian.folder(other.session_id).mkdir()
    shelf.put(other, frame(0, jpeg(3)))
    assert len(await made(await taken(exporter, shelf.reading(other), 0, 100))) == 1


async def test_a_thumbnail_keeps_its_shape(exporter: Exporter) -> None:
    small = await exporter.thumbnail(jpeg(5), 40)
    assert Image.open(io.BytesIO(small)).size == (40, 30)
    assert await exporter.thumbnail(jpeg(5), 160) == jpeg(5)
