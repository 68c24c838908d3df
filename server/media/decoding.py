"""The program of a decoder process: jobs come in on one socket, results go out on it, nothing else is within reach."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from functools import partial
from io import FileIO
from typing import BinaryIO

import av
from PIL import Image

from server.media.clips import ClipMaker
from server.media.confinement import Grant, confine, grant_cpu
from server.media.files import read_file
from server.media.jobs import (
    PREFIX,
    ClipEnd,
    ClipOpen,
    ClipPart,
    Done,
    Failed,
    File,
    Flush,
    Job,
    Pcm,
    Probe,
    Probed,
    Result,
    Setup,
    Slice,
    SoundUnit,
    Still,
    Unit,
    decode_job,
    framed,
)
from server.media.probes import possible
from server.media.refusals import Refused
from server.media.sandbox import Sandbox
from server.media.sounds import SoundTrack
from server.media.stills import decode_still
from server.media.streams import StreamTrack
from server.media.units import UnitTrack

# What the libraries raise over bytes that are not what they claim to be.
DAMAGED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    Image.DecompressionBombError,
    av.FFmpegError,
)


def serve(connection: int, setup: Setup, file: int | None, sandbox: Sandbox | None) -> None:
    """Work through jobs until the gateway hangs up. Every job is answered with results and one Done or Failed.

    Args:
        connection, file: descriptors, opened before the sandbox closes.
    """
    warnings.simplefilter("ignore")
    grant = partial(grant_cpu, setup.cpu_seconds)
    decoder = JobDecoder(setup, grant, None if file is None else open(file, "rb"))
    with open(connection, "rb", closefd=False) as jobs, FileIO(connection, "wb") as results:
        confine(setup, sandbox)
        while (job := _read_job(jobs)) is not None:
            for result in decoder.results(job):
                _write(results, framed(result))


class JobDecoder:
    """Holds what lasts between jobs: a decoder, and a resampler, for each track.

    Args:
        grant: called before each job, and before each packet of a container.
        file: what a File job reads.
    """

    def __init__(self, setup: Setup, grant: Grant, file: BinaryIO | None = None) -> None:
        self._setup = setup
        self._grant = grant
        self._file = file
        self._units: dict[int, UnitTrack] = {}
        self._streams: dict[int, StreamTrack] = {}
        self._sounds: dict[int, SoundTrack] = {}
        self._clip = ClipMaker(setup)

    def results(self, job: Job) -> Iterator[Result]:
        """The job's results, closed by one Done or Failed whatever its bytes were."""
        self._grant()
        try:
            yield from self._run(job)
        except Refused as refused:
            yield Failed(code=refused.code, message=str(refused))
        except DAMAGED:
            yield Failed(code="bad_media", message="the bytes cannot be decoded")
        except MemoryError:
            yield Failed(code="too_large", message="decoding needs more memory than is allowed")

    def _run(self, job: Job) -> Iterator[Result]:
        match job:
            case Still():
                yield decode_still(job, self._setup)
                yield Done()
            case Unit():
                yield from self._unit_track(job).decode(job)
            case Slice():
                yield from self._stream_track(job).decode(job)
            case Pcm():
                yield from self._sound_track(job.track).pcm(job)
                yield Done()
            case SoundUnit():
                yield from self._sound_track(job.track).unit(job)
                yield Done()
            case Flush():
                for unit_track in self._units.values():
                    yield from unit_track.flush()
                for stream_track in self._streams.values():
                    yield from stream_track.flush()
                for sound_track in self._sounds.values():
                    yield from sound_track.flush()
                yield Done()
            case File():
                file, self._file = self._file, None
                if file is None:
                    raise ValueError("no file was handed over")
                yield from read_file(job, file, self._setup, self._grant)
            case ClipOpen() | ClipPart() | ClipEnd():
                yield from self._clip.work(job)
            case Probe():
                yield Probed(possible=possible())
                yield Done()

    def _unit_track(self, job: Unit) -> UnitTrack:
        track = self._units.get(job.track)
        if track is None or track.codec != job.codec:
            track = self._units[job.track] = UnitTrack(job.track, job.codec, self._setup)
        return track

    def _stream_track(self, job: Slice) -> StreamTrack:
        track = self._streams.get(job.track)
        if track is None or track.form != job.form:
            track = self._streams[job.track] = StreamTrack(job.track, job.form, self._setup, self._grant)
        return track

    def _sound_track(self, number: int) -> SoundTrack:
        return self._sounds.setdefault(number, SoundTrack(number))


def _read_job(stream: BinaryIO) -> Job | None:
    prefix = stream.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    (length,) = PREFIX.unpack(prefix)
    return decode_job(stream.read(length))


def _write(stream: FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[stream.write(left) or 0 :]
