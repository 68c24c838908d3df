"""The program of a decoder process: jobs come in on one socket, results go out on it, nothing else is within reach."""

from __future__ import annotations

import math
import resource
import socket
import sys
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import av
from PIL import Image

from server.media.files import read_file
from server.media.jobs import (
    PREFIX,
    Done,
    Failed,
    File,
    Flush,
    Job,
    Pcm,
    Result,
    Setup,
    Still,
    Unit,
    decode_job,
    framed,
)
from server.media.sounds import SoundTrack
from server.media.stills import decode_still
from server.media.units import UnitTrack

DESCRIPTORS = 8
DAMAGED = (ValueError, OSError, SyntaxError, EOFError, Image.DecompressionBombError, av.FFmpegError)


def serve(connection: socket.socket, setup: Setup, file: int | None) -> None:
    """Work through jobs until the gateway hangs up. Every job is answered with results and one Done or Failed."""
    confine(setup)
    warnings.simplefilter("ignore")
    decoder = JobDecoder(setup, file)
    with connection, connection.makefile("rb") as stream:
        while (job := _read_job(stream)) is not None:
            _grant_cpu(setup.cpu_seconds)
            for result in decoder.results(job):
                connection.sendall(framed(result))


def confine(setup: Setup) -> None:
    """Limits that hold for the process's whole life: memory, no files written, no core dumps, few descriptors."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    if sys.platform == "linux":  # macOS has the name but refuses the limit
        resource.setrlimit(resource.RLIMIT_AS, (setup.memory_bytes, setup.memory_bytes))


class JobDecoder:
    """Holds what lasts between jobs: one H.264 decoder and one resampler per track."""

    def __init__(self, setup: Setup, file: int | None = None) -> None:
        self._setup = setup
        self._file = file
        self._units: dict[int, UnitTrack] = {}
        self._sounds: dict[int, SoundTrack] = {}

    def results(self, job: Job) -> Iterator[Result]:
        """The job's results, closed by one Done or Failed whatever its bytes were."""
        try:
            yield from self._run(job)
        except DAMAGED:
            yield Failed(code="bad_media", message="the bytes cannot be decoded")
        except MemoryError:
            yield Failed(code="bad_media", message="decoding needs more memory than is allowed")

    def _run(self, job: Job) -> Iterator[Result]:
        match job:
            case Still():
                yield decode_still(job, self._setup)
                yield Done()
            case Unit():
                if job.track not in self._units:
                    self._units[job.track] = UnitTrack(job.track, self._setup)
                yield from self._units[job.track].decode(job)
            case Pcm():
                if job.track not in self._sounds:
                    self._sounds[job.track] = SoundTrack(job.track)
                yield from self._sounds[job.track].pcm(job)
                yield Done()
            case Flush():
                for unit_track in self._units.values():
                    yield from unit_track.flush()
                for sound_track in self._sounds.values():
                    yield from sound_track.flush()
                yield Done()
            case File():
                descriptor, self._file = self._file, None
                if descriptor is None:
                    raise ValueError("no file was handed over")
                yield from read_file(job, descriptor, self._setup)


def _grant_cpu(seconds: int) -> None:
    """Processor time for one job; the kernel ends the process when it is spent."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = math.ceil(usage.ru_utime + usage.ru_stime)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, hard))


def _read_job(stream: BinaryIO) -> Job | None:
    prefix = stream.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    (length,) = PREFIX.unpack(prefix)
    return decode_job(stream.read(length))
