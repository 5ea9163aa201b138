"""The sizes of the benchmark: tiny for CI (without targets), default (at most five minutes), and full."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchError

_BYTES_A_USER = 1200  # memory per user, while the store rewrites its append-only file
_BYTES_BESIDE = 1 << 30  # memory of servers, readers and the plot


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
        rounds: number of measurements of each figure; the median counts.
        load_seconds: approximate duration of a load of single calls.
        memory_calls: number of single calls for the measurement of the server's memory.
        is_judged: whether the figures are compared with the targets.
    """

    name: str
    users: int
    few: int
    deep: int
    sweep: tuple[int, ...]
    chunk_sizes: tuple[int, ...]
    rounds: int
    load_seconds: float
    memory_calls: int
    is_judged: bool = True

    def check_memory(self) -> None:
        """Raises BenchError if the machine has not enough free memory."""
        users = 2 * self.users + self.few + self.deep + sum(self.sweep)
        needed = users * _BYTES_A_USER + _BYTES_BESIDE
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
                if available < needed:
                    raise BenchError(
                        f"BENCH={self.name} needs {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} are free"
                    )


SIZES = {
    size.name: size
    for size in (
        Size("tiny", 500, 100, 1500, (), (10, 1000), 1, 0.05, 500, is_judged=False),
        Size("default", 100_000, 1000, 1_000_000, (10_000,), (10, 100, 1000, 10_000), 5, 0.8, 50_000),
        Size("full", 100_000, 1000, 1_000_000, (10_000, 3_000_000), (10, 100, 1000, 10_000), 9, 3.0, 1_000_000),
    )
}
