"""The figures, in groups: each module measures figures that belong together."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from benchmarks.figures import Figure
from benchmarks.loads import Loads
from benchmarks.stage import Stage


@dataclass(frozen=True, slots=True)
class Run:
    """The servers, stores, loads and earlier figures of a run.

    Attributes:
        stage: servers and stores.
        loads: loads on the servers and stores.
        figures: the figures of the groups that were measured before.
    """

    stage: Stage
    loads: Loads
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that are measured together.

    Attributes:
        name: the subject of the figures, for progress messages and for the list of missing figures.
        measure: measures the figures.
        needs_h2load: whether h2load generates the load.
    """

    name: str
    measure: Callable[[Run], Iterable[Figure]]
    needs_h2load: bool = True
