"""The settings of grpcio's event engine under which servers are measured."""

import os

VARIABLE = "GRPC_EXPERIMENTS"

SERVICE = "service"  # what the service chooses for itself
DEFAULT = "default"  # what grpcio does by default
TUNED = "tuned"  # without the listener of the event engine

_EXPERIMENTS = {DEFAULT: "", TUNED: "-event_engine_listener"}


def environment(engine: str) -> dict[str, str]:
    """The environment of a server with this engine. A value that is set, even an empty one, overrides the service's."""
    inherited = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return inherited if engine == SERVICE else {**inherited, VARIABLE: _EXPERIMENTS[engine]}
