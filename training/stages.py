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
    # Some can be asked about less often than the rest, some are harder to learn: these are tried more often.
    harder = {"direction": 2.0, "changed": 2.0, "before": 1.6, "how_many": 1.3}
    return tuple((kind, share[kind] * harder.get(kind, 1.0)) for kind in KINDS)


STAGES = (
    Stage("pictures", 1100, 176, Syllabus(6, 20, 896, (1.0, 1.0, 4.0), (6, 6), _weights(1.0, 0.4, 1.3), 0.1)),
    Stage("clips", 700, 88, Syllabus(12, 24, 1536, (1.0, 1.0, 1.0, 2.0, 0.5), (8, 12), _weights(0.7, 1.3, 1.2))),
    Stage(
        "streams",
        2000,
        24,
        Syllabus(44, 34, 3712, (1.0, 1.0, 1.0, 1.0, 2.0, 0.5), (16, 44), _weights(0.7, 1.3, 1.2), thin=0.2),
    ),
    Stage(
        "minutes",
        1500,
        8,
        Syllabus(132, 44, 9472, (1.0, 1.0, 1.0, 2.0), (14, 48), _weights(0.8, 1.3, 1.2), thin=0.35, pace=3.0),
    ),
)
