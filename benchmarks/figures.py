"""Measures figures of contestants in interleaved rounds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of several contestants. The values of one round have the same position in all lists."""

    name: str
    unit: str
    values: dict[str, list[float]]

    def median(self, contestant: str) -> float:
        """Returns the median of a contestant's values."""
        return median(self.values[contestant])

    def ratio(self, of: str, to: str) -> float:
        """Returns the median of the ratios of all rounds. A disturbance affects both contestants of a round equally."""
        return median(mine / theirs for mine, theirs in zip(self.values[of], self.values[to], strict=True) if theirs)


@dataclass(frozen=True, slots=True)
class Part:
    """The name and unit of a figure that is measured together with other figures."""

    name: str
    unit: str


def measured(name: str, unit: str, rounds: int, contestants: Mapping[str, Callable[[], float]]) -> Figure:
    """Measures the contestants in turn, so that their conditions are equal. Discards the first round."""
    return Figure(name, unit, _in_turns(rounds, contestants))


def measured_parts(
    parts: Mapping[str, Part], rounds: int, contestants: Mapping[str, Callable[[], Mapping[str, float]]]
) -> list[Figure]:
    """Measures several figures at once. The figure of a part contains only the contestants that have this part."""
    taken = _in_turns(rounds, contestants)
    figures = []
    for key, part in parts.items():
        values = {
            contestant: [sample[key] for sample in samples]
            for contestant, samples in taken.items()
            if all(key in sample for sample in samples)
        }
        if values:
            figures.append(Figure(part.name, part.unit, values))
    return figures


def _in_turns(rounds: int, contestants: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    taken: dict[str, list[T]] = {contestant: [] for contestant in contestants}
    for _ in range(rounds + 1):
        for contestant, measure in contestants.items():
            taken[contestant].append(measure())
    return {contestant: values[1:] for contestant, values in taken.items()}
