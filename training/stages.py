"""The stages of the training: from single pictures to minutes of stream."""

from dataclasses import dataclass

from training.lesson import Syllabus
from training.world.questions import BACKWARD, KINDS, PRESENT, Kind


@dataclass(frozen=True, slots=True)
class Stage:
    """`steps` updates on `batch` examples each."""

    name: str
    steps: int
    batch: int
    syllabus: Syllabus

    @property
    def frames(self) -> int:
        """Pictures in one update."""
        return self.batch * self.syllabus.frames


def _weights(present: float, backward: float, absent: float) -> tuple[tuple[Kind, float], ...]:
    share = dict.fromkeys(PRESENT, present) | dict.fromkeys(BACKWARD, backward) | {"absent": absent}
    # Movement and changes are there to ask about less often than the rest, so they are tried more often.
    harder = {"direction": 2.0, "changed": 2.0}
    return tuple((kind, share[kind] * harder.get(kind, 1.0)) for kind in KINDS)


STAGES = (
    Stage("pictures", 1500, 176, Syllabus(6, 20, 896, (1.0, 1.0, 4.0), (6, 6), _weights(1.0, 0.4, 1.3), 0.1)),
    Stage("clips", 850, 88, Syllabus(12, 24, 1536, (1.0, 1.0, 1.0, 2.0, 0.5), (8, 12), _weights(0.7, 1.3, 1.2))),
    Stage(
        "streams", 1950, 24, Syllabus(44, 34, 3712, (1.0, 1.0, 1.0, 1.0, 2.0, 0.5), (24, 44), _weights(0.7, 1.3, 1.2))
    ),
    Stage("minutes", 380, 8, Syllabus(132, 44, 9472, (1.0, 1.0, 1.0, 2.0), (32, 64), _weights(0.8, 1.2, 1.2))),
)
