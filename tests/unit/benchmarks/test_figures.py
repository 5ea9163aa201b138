"""Figures: rounds are interleaved, ratios are taken within a round, and targets know what was not measured."""

import pytest

from benchmarks.figures import Figure, Part, measured, measured_parts
from benchmarks.rows import Row


def test_contestants_take_turns_and_the_first_round_is_discarded() -> None:
    order: list[str] = []

    def contestant(name: str) -> float:
        order.append(name)
        return float(len(order))

    figure = measured("rate", "calls/s", 2, {name: lambda name=name: contestant(name) for name in "ab"})  # type: ignore[misc]
    assert order == ["a", "b"] * 3
    assert figure.values == {"a": [3, 5], "b": [4, 6]}


def test_a_ratio_compares_values_of_one_round() -> None:
    figure = Figure("rate", "calls/s", {"a": [10, 100, 30], "b": [5, 50, 10]})  # the second round was fast for both
    assert figure.ratio("a", "b") == 2


def test_a_contestant_without_a_part_is_left_out_of_its_figure_only() -> None:
    parts = {"rate": Part("GetUser", "calls/s"), "store": Part("CPU of the store", "µs")}
    both, without = (lambda: {"rate": 1.0, "store": 2.0}), (lambda: {"rate": 3.0})
    rate, store = measured_parts(parts, 1, {"service": both, "constant": without})
    assert rate.values == {"service": [1], "constant": [3]}
    assert store.values == {"service": [2]}


@pytest.mark.parametrize(
    ("row", "is_measured", "is_reached"),
    [
        (Row("GetUser", "service", "Go", 0.5), True, True),
        (Row("GetUser", "service", "Go", 0.6), True, False),
        (Row("GetUser", "service", "Go", 0.4, is_most=True), True, False),
        (Row("GetUser", "service", "", 10), True, True),
        (Row("GetUser", "service", "missing", 1), False, False),
        (Row("missing", "service", "", 1), False, False),
    ],
)
def test_a_target(row: Row, *, is_measured: bool, is_reached: bool) -> None:
    figures = {"GetUser": Figure("GetUser", "calls/s", {"service": [10, 10], "Go": [20, 20]})}
    assert row.is_measured(figures) == is_measured
    if is_measured:
        assert row.is_reached(figures) == is_reached
