"""How much is measured: tiny for CI, which judges no times, the default within five minutes, and full."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchError

_BYTES_A_USER = 1200  # of memory, for a user in a store while that rewrites its append-only file
_BYTES_BESIDE = 1 << 30  # servers, readers, and what the plot takes


@dataclass(frozen=True, slots=True)
class Size:
    """One size of the benchmark.

    Attributes:
        name: as BENCH calls it.
        users: in the stores that most rows are measured on.
        few: in the store that a deep one is compared with.
        deep: in the deep store.
        sweep: sizes of further stores, for the plot.
        chunk_sizes: of the plot.
        rounds: how often each figure is taken; the median counts.
        load_seconds: how long a load of single calls lasts, roughly.
        memory_calls: single calls over which the server's memory is watched.
        is_judged: whether the targets are looked at.
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
        """Raises BenchError unless there is memory enough."""
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
        Size("default", 100_000, 1000, 1_000_000, (10_000,), (10, 100, 1000, 10_000), 5, 1.0, 100_000),
        Size("full", 100_000, 1000, 1_000_000, (10_000, 3_000_000), (10, 100, 1000, 10_000), 9, 3.0, 1_000_000),
    )
}
