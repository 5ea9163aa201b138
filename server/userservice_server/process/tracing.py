"""Sets up the traces of a serving process, if the variables ``OTEL_*`` configure them."""

import os
from importlib.metadata import version
from typing import TYPE_CHECKING

from userservice_server.config import ConfigError
from userservice_server.observability.tracing.settings import trace_settings

if TYPE_CHECKING:
    from userservice_server.observability.tracing.export import Tracing


def check_tracing() -> None:
    """Checks the settings of traces before the service starts.

    Raises:
        ConfigError: a variable has an invalid value, or OpenTelemetry is not installed.
    """
    settings = trace_settings(os.environ)
    if settings is None:
        return
    try:
        from userservice_server.observability.tracing import export  # noqa: F401, PLC0415 - needs the extra otel
    except ImportError:
        text = (
            f"{settings.enabled_by} is set, but OpenTelemetry is not installed: "
            "pip install 'userservice[server,otel]', or set OTEL_TRACES_EXPORTER=none"
        )
        raise ConfigError(text) from None


def start_tracing() -> "Tracing | None":
    """Starts the export of spans; returns None if calls are not traced.

    Raises:
        ConfigError: a variable has an invalid value.
    """
    settings = trace_settings(os.environ)
    if settings is None:
        return None
    from userservice_server.observability.tracing.export import Tracing  # noqa: PLC0415 - needs the extra otel

    return Tracing(settings, version("userservice"))
