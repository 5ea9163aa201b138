"""The settings of grpcio's event engine under which servers are measured."""

import os

VARIABLE = "GRPC_EXPERIMENTS"

SERVICE = "service"  # the setting that the service selects
DEFAULT = "default"  # the default of grpcio
TUNED = "tuned"  # without the listener of the event engine

_EXPERIMENTS = {DEFAULT: "", TUNED: "-event_engine_listener"}


def environment(engine: str) -> dict[str, str]:
    """Returns the environment of a server with this engine.

    A value of the variable, even an empty value, overrides the setting that the service selects.
    """
    inherited = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return inherited if engine == SERVICE else {**inherited, VARIABLE: _EXPERIMENTS[engine]}
