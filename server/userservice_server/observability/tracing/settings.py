"""Reads from the standard variables ``OTEL_*`` whether calls are traced, and how spans are exported.

OpenTelemetry itself reads all other variables: endpoints, headers, certificates, the sampler, the resource.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from userservice_server.config.error import ConfigError

HTTP, GRPC = "http/protobuf", "grpc"
_SWITCHES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
# With the defaults of the specification.
_QUEUE, _QUEUE_SIZE = "OTEL_BSP_MAX_QUEUE_SIZE", "2048"
_BATCH, _BATCH_SIZE = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512"


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """The settings that OpenTelemetry does not read itself.

    Attributes:
        enabled_by: the variable that switches tracing on.
        protocol: HTTP or GRPC.
        follows_callers: whether the trace context of callers is used.
        queue_size: maximum number of spans that wait for their export; more are dropped.
        batch_size: maximum number of spans that are exported together.
    """

    enabled_by: str
    protocol: str
    follows_callers: bool
    queue_size: int
    batch_size: int


def trace_settings(environment: Mapping[str, str]) -> TraceSettings | None:
    """Returns the settings; None if calls are not traced, which is the default.

    Raises:
        ConfigError: a variable has a value that the service does not support.
    """

    def value(name: str, default: str = "") -> str:  # an empty variable counts as absent, as the specification says
        return environment.get(name, "").strip() or default

    enabled_by = next((name for name in _SWITCHES if value(name)), "")
    exporter = value("OTEL_TRACES_EXPORTER", "otlp")
    if not enabled_by or exporter == "none" or value("OTEL_SDK_DISABLED").lower() == "true":
        return None
    if exporter != "otlp":
        raise ConfigError("OTEL_TRACES_EXPORTER must be otlp or none")
    named = next((name for name in _PROTOCOLS if value(name)), _PROTOCOLS[-1])
    protocol = value(named, HTTP)
    if protocol not in (HTTP, GRPC):
        raise ConfigError(f"{named} must be {HTTP} or {GRPC}")
    sampler = value("OTEL_TRACES_SAMPLER", "parentbased_always_on").lower()
    if sampler not in _SAMPLERS:
        raise ConfigError(f"OTEL_TRACES_SAMPLER must be one of {', '.join(_SAMPLERS)}")
    if sampler.endswith("ratio"):
        _check_ratio(value("OTEL_TRACES_SAMPLER_ARG", "1"))
    propagators = {name.strip() for name in value("OTEL_PROPAGATORS", "tracecontext").split(",")}
    queue_size = _count(_QUEUE, value(_QUEUE, _QUEUE_SIZE))
    batch_size = min(queue_size, _count(_BATCH, value(_BATCH, _BATCH_SIZE)))
    return TraceSettings(enabled_by, protocol, "tracecontext" in propagators, queue_size, batch_size)


def _check_ratio(text: str) -> None:
    try:
        is_ratio = 0 <= float(text) <= 1
    except ValueError:
        is_ratio = False
    if not is_ratio:
        raise ConfigError("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1")


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ConfigError(f"{name} must be a whole number above 0")
    return int(text)
