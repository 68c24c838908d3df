"""How much is measured by the arms of `python -m bench.engine --device cuda`."""

from __future__ import annotations

from dataclasses import dataclass

from workers.perception.changes import USUAL_THRESHOLD

ROOM = 1_408  # tokens of a budget beside the pictures of its trunk: header, branches and pins


@dataclass(frozen=True, slots=True)
class Load:
    """Times are in seconds, `decoding` and `answers` in answers at once, `pictures` are those of a full trunk.

    `seconds` of ingest from `sessions` with `pictures_a_step`; `share` of the ceiling comes while answers run.
    `decoding_pictures`: those of a trunk which a question and half of its answer bring to 4,350 keys. `quiet`: pictures
    and questions of one session alone, which grows `age` seconds old and is looked at `looks` times meanwhile.
    `threshold` is that of dropping. Pictures for `expected_fps` are made beforehand, by so many `makers`.
    """

    seconds: float = 60.0
    sessions: int = 32
    pictures: int = 17
    pictures_a_step: int = 8
    share: float = 0.85
    answers: int = 16
    decoding: tuple[int, ...] = (1, 32, 64)
    decoding_pictures: int = 16
    answer_tokens: int = 400
    quiet: int = 200
    age: float = 10_800.0
    looks: int = 9
    threshold: int = USUAL_THRESHOLD
    expected_fps: float = 150.0
    makers: int | None = None


@dataclass(frozen=True, slots=True)
class LiveLoad:
    """Sessions of one frame a second, from `sessions` on and `step` more at a time while trials of `trial` seconds
    hold; the largest number that held is then kept for `seconds`. A question to each `every` so many seconds.

    Or, with `answers`, so many of them run at any time, one after the other, beside `fps` frames a second of each
    session; a session that is `complete` loses none, whatever comes.

    What has to hold: no frame older than `age_s` when it is in memory and none lost, `first_token_s` at p95,
    `between_s` at p99. There is memory for `most` of them. `settle`: seconds before anything counts.
    """

    sessions: int = 60
    most: int = 165
    step: int = 10
    trial: float = 40.0
    seconds: float = 600.0
    settle: float = 16.0
    every: float = 30.0
    answer_tokens: int = 32
    fps: float = 1.0
    answers: int = 0
    complete: bool = False
    jitter: float = 0.1
    age_s: float = 1.0
    first_token_s: float = 0.15
    between_s: float = 0.05
    slo_itl_ms: float | None = 40.0
    makers: int | None = None
