"""The open loop's schedule and its percentiles."""

from itertools import pairwise

import pytest

from loadgen.open_loop import percentile, schedule


def test_calls_come_at_the_rate_and_independently_of_each_other() -> None:
    times = schedule(20_000, 1000)
    assert times[-1] == pytest.approx(20, rel=0.05)
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) < 0.0001
    assert max(gaps) > 0.005
    assert schedule(20_000, 1000) == times  # the same for each contestant


@pytest.mark.parametrize(("percent", "value"), [(50, 500), (99, 990), (99.9, 999), (100, 1000), (0, 1)])
def test_a_percentile(percent: float, value: int) -> None:
    assert percentile(range(1, 1001), percent) == value


def test_a_percentile_of_one_value() -> None:
    assert percentile([3.0], 99.9) == 3
