"""Selects grpc's faster network layer, which is a setting internal to grpc, for the versions where it was measured.

grpc has two implementations of a listening socket: the older one, which polls in the thread that takes events, and the
event engine, which has a thread pool of its own. With the event engine, each call wakes more threads: bare grpcio needs
a fifth to a quarter more CPU per call (docs/performance.md). The names of these settings may change with every version
of grpc, so an unknown version keeps grpc's default.
"""

from collections.abc import MutableMapping
from importlib.metadata import PackageNotFoundError, version

VARIABLE = "GRPC_EXPERIMENTS"
"""grpc reads this environment variable when the module is imported. A value that the operator has set is kept."""

EXPERIMENTS = {
    # The tests of cancellation, drain, abandoned streams and overload pass with them (make test, make test-oldest).
    (1, 80): "-event_engine_listener",
    (1, 82): "-event_engine_listener",
}
"""The experiments to set, by major and minor version of grpcio."""


def select_event_engine(environment: MutableMapping[str, str]) -> None:
    """Sets grpc's experiments in ``environment``. Must run before grpc is imported."""
    experiments = EXPERIMENTS.get(_grpcio_version())
    if experiments:
        environment.setdefault(VARIABLE, experiments)


def _grpcio_version() -> tuple[int, int]:
    """Returns major and minor version of the installed grpcio, or (0, 0) if they cannot be found."""
    try:
        major, minor, *_ = version("grpcio").split(".")
        return int(major), int(minor)
    except (PackageNotFoundError, ValueError):
        return 0, 0
