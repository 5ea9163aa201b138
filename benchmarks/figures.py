"""What was measured: figures of contestants side by side, and the rows that put them into proportion."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured for several contestants, in rounds: the first values of all belong together, and so on."""

    name: str
    unit: str
    values: dict[str, list[float]]

    def median(self, contestant: str) -> float:
        """The median of a contestant's values."""
        return median(self.values[contestant])

    def ratio(self, of: str, to: str) -> float:
        """The median of the ratios of each round: what troubles a round troubles both sides of its ratio."""
        return median(mine / theirs for mine, theirs in zip(self.values[of], self.values[to], strict=True))


def measured(name: str, unit: str, rounds: int, contestants: Mapping[str, Callable[[], float]]) -> Figure:
    """Measures contestants in turns, so that all of them see the same machine; a first round is thrown away."""
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
        to: the contestant that it is put in proportion to; empty: the value itself counts.
        limit: the target.
        is_most: whether the target is the most, else the least.
    """

    figure: str
    of: str
    to: str
    limit: float
    is_most: bool = False

    def value(self, figures: Mapping[str, Figure]) -> float:
        """What was measured."""
        figure = figures[self.figure]
        return figure.ratio(self.of, self.to) if self.to else figure.median(self.of)

    def is_reached(self, figures: Mapping[str, Figure]) -> bool:
        """Whether the target is reached."""
        value = self.value(figures)
        return value <= self.limit if self.is_most else value >= self.limit
