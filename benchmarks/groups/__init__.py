"""The figures, in groups: each module measures figures that belong together."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from benchmarks.figures import Figure
from benchmarks.loads import Loads
from benchmarks.stage import Stage


@dataclass(frozen=True, slots=True)
class Run:
    """What a group measures with.

    Attributes:
        stage: servers and stores.
        loads: loads on them.
        figures: what was measured before.
    """

    stage: Stage
    loads: Loads
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that are measured together.

    Attributes:
        name: what they are about, for progress and for what is missing.
        measure: measures them.
        needs_h2load: whether h2load makes the load.
    """

    name: str
    measure: Callable[[Run], Iterable[Figure]]
    needs_h2load: bool = True
