"""Exports spans over OTLP in the background, and counts the spans that were dropped."""

import logging
import os
import time
from collections.abc import Sequence
from threading import Thread
from typing import cast

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from userservice_server.config.error import ConfigError
from userservice_server.observability.tracing.settings import GRPC, TraceSettings
from userservice_server.observability.tracing.spans import CallSpans, StoreSpans, TraceIds

_LOG_SECONDS = 60.0  # between two log lines about dropped spans
_VERBOSE_LIBRARIES = ("opentelemetry", "urllib3")

logger = logging.getLogger("userservice.traces")


class Tracing:
    """The traces of one process.

    Attributes:
        calls: creates the spans of calls.
        store: creates the spans of scripts; observes the store.

    Args:
        settings: how spans are exported.
        version: version of the service.

    Raises:
        ConfigError: a variable ``OTEL_*`` has an invalid value.
    """

    def __init__(self, settings: TraceSettings, version: str) -> None:
        _silence_libraries()
        try:
            self._processor = _Processor(_exporter(settings.protocol), settings)
            ids = TraceIds()
            provider = TracerProvider(resource=_resource(version), id_generator=ids, shutdown_on_exit=False)
        except (ValueError, OSError) as error:  # without its text, which can contain the value of a variable
            text = f"tracing: a variable OTEL_* has an invalid value ({type(error).__name__})"
            raise ConfigError(text) from error
        provider.add_span_processor(self._processor)
        tracer = cast("Tracer", provider.get_tracer("userservice", version))  # another class only if it is disabled
        self.calls = CallSpans(tracer, ids, follows_callers=settings.follows_callers)
        self.store = StoreSpans(tracer)

    @property
    def dropped(self) -> int:
        """The number of spans that were dropped since the start of the process."""
        return self._processor.dropped

    def close(self, seconds: float) -> None:
        """Exports the remaining spans within a time limit."""
        # A thread, because OpenTelemetry waits up to half a minute for an endpoint that is not available.
        closing = Thread(target=self._processor.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(seconds)


class _Processor(SpanProcessor):
    """Passes spans to a batch processor of OpenTelemetry, which drops spans without a count if its queue is full.

    Each counter is written by one thread only: ``_accepted`` and ``_rejected`` by the event loop, the others by the
    thread that exports.
    """

    def __init__(self, exporter: SpanExporter, settings: TraceSettings) -> None:
        self._exporter = _CountingExporter(exporter)
        self._queue_size = settings.queue_size
        self._accepted = self._rejected = 0
        # Its queue cannot be full: it contains at most the spans that are not exported yet.
        self._batches = BatchSpanProcessor(
            self._exporter, max_queue_size=settings.queue_size, max_export_batch_size=settings.batch_size
        )

    @property
    def dropped(self) -> int:
        return self._rejected + self._exporter.failed

    def on_end(self, span: ReadableSpan) -> None:
        if self._accepted - self._exporter.finished >= self._queue_size:
            self._rejected += 1
            return
        self._accepted += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]


class _CountingExporter(SpanExporter):
    """Counts the spans that could not be exported, and logs that spans are dropped.

    Attributes:
        finished: number of spans whose export has ended, successfully or not.
        failed: number of spans that were not exported.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.finished = self.failed = 0
        self._log_at = 0.0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self.finished += len(spans)
            if result is SpanExportResult.FAILURE:
                self.failed += len(spans)
                self._log()
        return result

    def _log(self) -> None:
        if time.monotonic() >= self._log_at:
            self._log_at = time.monotonic() + _LOG_SECONDS
            text = "spans cannot be exported and are dropped; check the OTLP endpoint (OTEL_EXPORTER_OTLP_ENDPOINT)"
            logger.warning(text, extra={"spans": self.failed})

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _exporter(protocol: str) -> SpanExporter:
    if protocol == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc  # noqa: PLC0415 - only if used

        return over_grpc.OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http  # noqa: PLC0415 - only if used

    return over_http.OTLPSpanExporter()


def _resource(version: str) -> Resource:
    """Returns the description of this process; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence."""
    own: dict[str, str | int] = {"service.name": "userservice", "service.version": version, "process.pid": os.getpid()}
    described = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in own.items() if name not in described})


def _silence_libraries() -> None:
    """Hides the log lines of the libraries, except at level debug: they repeat with each batch and contain URLs."""
    if logging.getLogger().level > logging.DEBUG:
        for library in _VERBOSE_LIBRARIES:
            logging.getLogger(library).setLevel(logging.CRITICAL)
