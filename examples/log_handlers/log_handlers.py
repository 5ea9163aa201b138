"""Handlers that receive the log lines of the service.

Run `PYTHONPATH=examples/log_handlers userservice serve --log-handler log_handlers:opentelemetry`, or `…:sentry`.
The service calls the function once in each process, and passes the lines to the handler in a thread of its own.
"""

import logging


def opentelemetry() -> logging.Handler:
    """Sends all lines over OTLP; needs the extra `otel` and the variable OTEL_EXPORTER_OTLP_ENDPOINT."""
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter  # noqa: PLC0415 - only if used
    from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler  # noqa: PLC0415
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor  # noqa: PLC0415

    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))

    class Handler(LoggingHandler):
        def close(self) -> None:
            """Sends the last lines; the service calls this method when it stops."""
            provider.shutdown()
            super().close()

    return Handler(logger_provider=provider)


def sentry() -> logging.Handler:
    """Sends errors to Sentry; needs the package `sentry-sdk` and the variable SENTRY_DSN."""
    import sentry_sdk  # noqa: PLC0415 - only if used
    from sentry_sdk.integrations.logging import EventHandler  # noqa: PLC0415

    # No integrations: they would send variables and headers, which contain data of users and credentials.
    sentry_sdk.init(default_integrations=False, include_local_variables=False)

    class Handler(EventHandler):
        def close(self) -> None:
            """Sends the last errors; the service calls this method when it stops."""
            sentry_sdk.flush(timeout=1)
            super().close()

    return Handler(level=logging.ERROR)
