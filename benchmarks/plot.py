"""Draws the plot: users/s by chunk size, and the time to the first chunk by store size."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from benchmarks.groups.deep import Sweep


def draw(sweep: Sweep, limits: dict[str, float], path: Path) -> None:
    """Draws the plot as SVG; ``limits`` are rates that do not depend on the chunk size."""
    mpl.rcParams["svg.hashsalt"] = "userservice"  # the same figures produce the same file
    canvas = Canvas(figsize=(10, 4), layout="constrained")
    rates, times = canvas.subplots(1, 2)
    for name, by_chunk_size in sweep.users_per_second.items():
        style = "o-" if name.startswith("service") else "s--"
        rates.plot(list(by_chunk_size), list(by_chunk_size.values()), style, label=name, markersize=4)
    for name, rate in limits.items():
        rates.axhline(rate, color="grey", linestyle=":", label=name)
    rates.set(xscale="log", yscale="log", xlabel="chunk size", title="ListUsersChunked, users/s")
    rates.set_ylim(bottom=rates.get_ylim()[0] / 4)  # room for the legend
    rates.legend(fontsize="x-small", ncols=2, loc="lower left")
    sizes = sorted(sweep.first_chunk)
    for chunk_size in sweep.first_chunk[sizes[0]]:
        milliseconds = [sweep.first_chunk[users][chunk_size] * 1000 for users in sizes]
        times.plot(sizes, milliseconds, "o-", label=f"chunk size {chunk_size}", markersize=4)
    times.set(xscale="log", xlabel="users in the store", title="time to the first chunk, ms", ylim=(0, None))
    times.legend(fontsize="x-small")
    for axes in (rates, times):
        axes.grid(alpha=0.3)
    canvas.savefig(path, metadata={"Date": None})
