"""The measured figures of several contestants, and the targets for their ratios."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median


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
        """Returns the median of the ratios of each round, because a disturbance affects both sides of a round."""
        return median(mine / theirs for mine, theirs in zip(self.values[of], self.values[to], strict=True))


def measured(name: str, unit: str, rounds: int, contestants: Mapping[str, Callable[[], float]]) -> Figure:
    """Measures the contestants in turns, so that conditions are equal; discards the first round."""
    values: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for _ in range(rounds + 1):
        for contestant, measure in contestants.items():
            values[contestant].append(measure())
    return Figure(name, unit, {contestant: taken[1:] for contestant, taken in values.items()})


@dataclass(frozen=True, slots=True)
class Row:
    """A figure with a target.

    Attributes:
        figure: name of the figure.
        of: the contestant.
        to: the contestant to compare with; if empty, the target is for the value itself.
        limit: the target.
        is_most: whether the target is a maximum; else it is a minimum.
    """

    figure: str
    of: str
    to: str
    limit: float
    is_most: bool = False

    def value(self, figures: Mapping[str, Figure]) -> float:
        """Returns the measured ratio or value."""
        figure = figures[self.figure]
        return figure.ratio(self.of, self.to) if self.to else figure.median(self.of)

    def is_reached(self, figures: Mapping[str, Figure]) -> bool:
        """Returns whether the target is reached."""
        value = self.value(figures)
        return value <= self.limit if self.is_most else value >= self.limit
