"""Every form of media as FFmpeg makes it: the same pictures as a reference decode, at the same times, and at once."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from PIL import Image

from server.media.decoding import JobDecoder
from server.media.jobs import (
    Done,
    Failed,
    Flush,
    Job,
    Pcm,
    PictureOut,
    Preamble,
    Result,
    Slice,
    SoundCodec,
    SoundOut,
    SoundUnit,
    Still,
    StillCodec,
    StreamForm,
    Unit,
    VideoCodec,
)
from tests.server.formats import footage
from tests.server.formats.footage import PSNR_DB, RATE, SETUP, TONE_HZ, Shown

pytestmark = [pytest.mark.unit, pytest.mark.timeout(120)]

PERIOD_MS = 1000 / RATE
CODECS: tuple[VideoCodec, ...] = ("h264", "h265", "vp8", "vp9", "av1")
STREAMS: tuple[tuple[StreamForm, VideoCodec, str | None], ...] = (
    ("webm", "vp8", "libopus"),
    ("webm", "vp9", None),
    ("webm", "av1", "libopus"),
    ("mp4", "h264", "aac"),
    ("mp4", "h265", None),
    ("mp4", "vp9", "libopus"),
    ("mp4", "av1", "aac"),
)


def unlimited() -> None:
    """Decoding here takes the time that it takes."""


def run(decoder: JobDecoder, jobs: Iterable[Job]) -> Iterator[Result]:
    for job in jobs:
        yield from decoder.results(job)


def pictures(results: Iterable[Result]) -> list[Shown]:
    return [Shown(out.t_ms, footage.opened(out.jpeg)) for out in results if isinstance(out, PictureOut)]


def same(shown: list[Shown], expected: list[Shown]) -> None:
    assert len(shown) == len(expected)
    for one, other in zip(shown, expected, strict=True):
        assert abs(one.t_ms - other.t_ms) < PERIOD_MS
        assert footage.psnr(one.pixels, other.pixels) >= PSNR_DB


def as_units(codec: VideoCodec, data: list[bytes]) -> list[Job]:
    return [
        Unit(codec=codec, track=1, t_ms=round(number * PERIOD_MS), data=unit, keep=True)
        for number, unit in enumerate(data)
    ]


@pytest.mark.parametrize(("codec", "form"), [("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_pictures(codec: StillCodec, form: str) -> None:
    out = io.BytesIO()
    Image.fromarray(footage.scene(3)).save(out, form, quality=95)
    found = pictures(run(JobDecoder(SETUP, unlimited), [Still(codec=codec, t_ms=300, data=out.getvalue())]))
    same(found, [Shown(300, footage.scene(3))])


@pytest.mark.parametrize("codec", CODECS)
def test_units_give_each_picture_at_once(codec: VideoCodec) -> None:
    data = footage.units(codec, range(20), key_every=8)
    decoder = JobDecoder(SETUP, unlimited)
    by_unit = [pictures(decoder.results(job)) for job in as_units(codec, data)]
    assert [len(found) for found in by_unit] == [1] * 20, "a picture is held back"
    expected = [Shown(PERIOD_MS * number, pixels) for number, pixels in enumerate(footage.decoded(codec, data))]
    same([shown for found in by_unit for shown in found], expected)
    assert footage.psnr(expected[11].pixels, footage.scene(11)) > 25, "the reference is of the scene"
    assert footage.psnr(expected[11].pixels, footage.scene(12)) < 25, "pictures are told apart"


@pytest.mark.parametrize("codec", CODECS)
def test_bit_rate_size_and_key_frames_may_change_in_mid_stream(codec: VideoCodec) -> None:
    first = footage.units(codec, range(8), key_every=100, bit_rate=1_000_000)
    second = footage.units(codec, range(8, 16), key_every=3, bit_rate=400_000, size=(320, 256))
    third = footage.units(codec, range(16, 22), key_every=1, bit_rate=2_000_000)
    found = pictures(run(JobDecoder(SETUP, unlimited), as_units(codec, [*first, *second, *third])))
    expected = [pixels for part in (first, second, third) for pixels in footage.decoded(codec, part)]
    same(found, [Shown(PERIOD_MS * number, pixels) for number, pixels in enumerate(expected)])


@pytest.mark.parametrize("codec", CODECS)
def test_units_after_a_loss_wait_for_a_key_frame(codec: VideoCodec) -> None:
    data = footage.units(codec, range(20), key_every=8)
    jobs = as_units(codec, data)
    jobs[3] = Unit(codec=codec, track=1, t_ms=300, data=data[3], keep=True, fresh=True)
    decoder = JobDecoder(SETUP, unlimited)
    ends = [list(decoder.results(job))[-1] for job in jobs]
    wants = [number for number, end in enumerate(ends) if isinstance(end, Done) and end.need_keyframe]
    assert wants == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_a_new_decoder_goes_on_at_a_key_frame_without_parameter_sets(codec: VideoCodec) -> None:
    """Cameras send them once: what the first decoder saw is handed to the second."""
    data = footage.units(codec, range(16), key_every=8)
    [kept] = [out for out in run(JobDecoder(SETUP, unlimited), as_units(codec, data[:3])) if isinstance(out, Preamble)]
    bare = data[8].replace(kept.data, b"")
    assert len(bare) < len(data[8])
    alone = list(JobDecoder(SETUP, unlimited).results(Unit(codec=codec, track=1, t_ms=0, data=bare, keep=True)))
    assert alone[-1] == Done(need_keyframe=True)
    begun = Unit(codec=codec, track=1, t_ms=800, data=bare, keep=True, preamble=kept)
    found = pictures(run(JobDecoder(SETUP, unlimited), [begun, *as_units(codec, data)[9:]]))
    expected = footage.decoded(codec, data)[8:]
    same(found, [Shown(PERIOD_MS * (8 + number), pixels) for number, pixels in enumerate(expected)])


@pytest.mark.parametrize(("form", "video", "sound"), STREAMS)
@pytest.mark.parametrize("seed", [1, 2])
def test_streams_cut_anywhere(form: StreamForm, video: VideoCodec, sound: str | None, seed: int) -> None:
    data = footage.stream(form, video, sound, 20)
    jobs = [Slice(form=form, track=2, t_ms=5000, data=piece) for piece in footage.cut(data, seed)]
    results = list(run(JobDecoder(SETUP, unlimited), [*jobs, Flush()]))
    expected = [Shown(5000 + shown.t_ms, shown.pixels) for shown in footage.reference(data)]
    assert len(expected) == 20
    same(pictures(results), expected)
    assert sum(out.pictures for out in results if isinstance(out, Done)) == 20
    sounds = [out for out in results if isinstance(out, SoundOut)]
    assert bool(sounds) == bool(sound)
    if sounds:
        assert abs(sounds[0].t_ms - 5000) < PERIOD_MS
        assert sum(len(out.pcm) for out in sounds) / 32 == pytest.approx(2000, abs=100)
        assert footage.pitch(b"".join(out.pcm for out in sounds)) == pytest.approx(TONE_HZ, abs=2)


@pytest.mark.parametrize(
    ("form", "video", "sound"), [("webm", "vp8", None), ("mp4", "h264", None), ("webm", "av1", None)]
)
def test_a_stream_holds_no_picture_back(form: StreamForm, video: VideoCodec, sound: str | None) -> None:
    """At one byte a slice each picture is out before the next one's bytes have all come."""
    data = footage.stream(form, video, sound, 6, fragment_ms=1)
    decoder = JobDecoder(SETUP, unlimited)
    came = [
        at
        for at in range(len(data))
        for out in decoder.results(Slice(form=form, track=0, t_ms=0, data=data[at : at + 1]))
        if isinstance(out, PictureOut)
    ]
    whole = [data.find(piece) + len(piece) for piece in footage.payloads(data)]
    assert [at < following for at, following in zip(came, whole[1:], strict=False)] == [True] * 5


def test_pictures_that_are_stored_out_of_order_come_out_in_order() -> None:
    data = footage.stream("mp4", "h264", "aac", 20, options={"preset": "medium", "x264-params": "bframes=2:b-adapt=0"})
    jobs: list[Job] = [Slice(form="mp4", track=2, t_ms=0, data=piece) for piece in footage.cut(data, 3)]
    same(pictures(run(JobDecoder(SETUP, unlimited), [*jobs, Flush()])), footage.reference(data))


@pytest.mark.parametrize(("form", "video"), [("webm", "vp8"), ("mp4", "h264"), ("webm", "vp9"), ("mp4", "av1")])
def test_a_new_decoder_takes_a_stream_up_at_its_next_fragment(form: StreamForm, video: VideoCodec) -> None:
    """The second decoder begins in the middle of anything; times are those of before."""
    data = footage.stream(form, video, None, 40, key_every=10, fragment_ms=300)
    pieces = list(footage.cut(data, 4, longest=len(data) // 12))
    jobs = [Slice(form=form, track=2, t_ms=1000, data=piece) for piece in pieces]
    half = len(jobs) // 4
    first = list(run(JobDecoder(SETUP, unlimited), jobs[:half]))
    kept = [out for out in first if isinstance(out, Preamble)][-1]
    jobs[half] = Slice(form=form, track=2, t_ms=1000, data=pieces[half], preamble=kept)
    second = list(run(JobDecoder(SETUP, unlimited), [*jobs[half:], Flush()]))
    wants = [out.need_keyframe for out in second if isinstance(out, Done)]
    assert not wants[-1]
    expected = [Shown(1000 + shown.t_ms, shown.pixels) for shown in footage.reference(data)]
    found = pictures(second)
    assert len(found) >= 10
    same(found, expected[-len(found) :])


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_a_stream_may_begin_again(form: StreamForm) -> None:
    """A recorder that is started anew: its times count from its own beginning."""
    video: VideoCodec = "vp8" if form == "webm" else "h264"
    one, two = footage.stream(form, video, None, 5), footage.stream(form, video, None, 5)
    jobs = [Slice(form=form, track=0, t_ms=t_ms, data=data) for t_ms, data in ((0, one), (9000, two))]
    found = pictures(run(JobDecoder(SETUP, unlimited), [*jobs, Flush()]))
    assert [round(shown.t_ms / 100) for shown in found] == [0, 1, 2, 3, 4, 90, 91, 92, 93, 94]


@pytest.mark.parametrize("form", ["webm", "mp4"])
def test_what_is_no_stream_is_refused_once(form: StreamForm) -> None:
    decoder = JobDecoder(SETUP, unlimited)
    noise = bytes(range(256)) * 20
    ends = [list(decoder.results(Slice(form=form, track=0, t_ms=0, data=noise)))[-1] for _ in range(3)]
    assert isinstance(ends[0], Failed)
    assert ends[1:] == [Done(), Done()]


@pytest.mark.parametrize(
    ("codec", "encoder", "rate"),
    [("opus", "libopus", 48_000), ("opus", "libopus", 16_000), ("aac", "aac", 44_100), ("aac", "aac", 8_000)],
)
def test_sound_units(codec: SoundCodec, encoder: str, rate: int) -> None:
    packets = footage.sound_packets(encoder, 1.0, rate=rate, adts=codec == "aac")
    step = 20 if codec == "opus" else 1000 * 1024 / rate
    jobs: list[Job] = [
        SoundUnit(codec=codec, track=0, t_ms=round(700 + number * step), data=data)
        for number, data in enumerate(packets)
    ]
    sounds = [out for out in run(JobDecoder(SETUP, unlimited), [*jobs, Flush()]) if isinstance(out, SoundOut)]
    assert [out.t_ms for out in sounds[:9]] == [700 + 100 * number for number in range(9)]
    assert footage.pitch(b"".join(out.pcm for out in sounds)) == pytest.approx(TONE_HZ, abs=3)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_pcm_at_any_rate(rate: int) -> None:
    tone = footage.tone_samples(rate, rate)
    stereo = np.repeat(tone[:, None], 2, axis=1)
    jobs: list[Job] = [
        Pcm(track=0, t_ms=100 * tenth, rate=rate, channels=2, data=part.tobytes())
        for tenth, part in enumerate(np.array_split(stereo, 10))
    ]
    sounds = [out for out in run(JobDecoder(SETUP, unlimited), [*jobs, Flush()]) if isinstance(out, SoundOut)]
    assert sum(len(out.pcm) for out in sounds) / 32 == pytest.approx(1000, abs=10)
    assert footage.pitch(b"".join(out.pcm for out in sounds)) == pytest.approx(TONE_HZ, abs=2)
