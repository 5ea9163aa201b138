"""The sizes of the benchmark: tiny for CI (without targets), default (about 15 minutes), scale, and full."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """One size of the benchmark.

    Attributes:
        name: the value of BENCH.
        users: number of users in the stores of most measurements.
        few: number of users in the small store, for comparison with the deep store.
        deep: number of users in the deep store.
        sweep: numbers of users in further stores, for the plot.
        chunk_sizes: chunk sizes in the plot.
        rounds: number of measurements of each figure; the result is the median.
        load_seconds: approximate duration of a load of single calls.
        latency_seconds: duration of an open-loop load.
        memory_calls: number of single calls for the measurement of the server's memory.
        scale: numbers of users in the stores for the figures by store size; if empty, these are not measured.
        is_judged: whether the figures are compared with the targets.
        only_scale: whether only the figures by store size and by workers are measured.
    """

    name: str
    users: int
    few: int
    deep: int
    sweep: tuple[int, ...]
    chunk_sizes: tuple[int, ...]
    rounds: int
    load_seconds: float
    latency_seconds: float
    memory_calls: int
    scale: tuple[int, ...] = ()
    is_judged: bool = True
    only_scale: bool = False


_CHUNK_SIZES = (10, 100, 1000, 10_000)
_SCALE = (1000, 10_000, 100_000, 1_000_000, 10_000_000)

SIZES = {
    size.name: size
    for size in (
        Size("tiny", 500, 100, 1500, (), (10, 1000), 1, 0.05, 0.2, 500, is_judged=False),
        Size("default", 100_000, 1000, 1_000_000, (10_000,), _CHUNK_SIZES, 5, 0.7, 2.0, 50_000),
        Size("scale", 10_000, 0, 0, (), (), 3, 1.0, 5.0, 0, _SCALE, only_scale=True),
        Size("full", 100_000, 1000, 1_000_000, (10_000, 3_000_000), _CHUNK_SIZES, 9, 3.0, 10.0, 1_000_000, _SCALE),
    )
}
