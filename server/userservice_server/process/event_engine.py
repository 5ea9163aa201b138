"""Selects the faster network layer of grpc, by an internal setting of grpc, in the versions that were measured.

grpc has two implementations of a listening socket: the older one polls in the thread that reads the completion queue;
the event engine has a thread pool of its own and wakes more threads for each call. With the event engine, bare grpcio
needs about 15 to 26 % more CPU per call (docs/performance.md). The names of these settings may change in any version
of grpc, so other versions keep the default of grpc.
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
    """Returns major and minor version of the installed grpcio, or (0, 0) if the version is unknown."""
    try:
        major, minor, *_ = version("grpcio").split(".")
        return int(major), int(minor)
    except (PackageNotFoundError, ValueError):
        return 0, 0
