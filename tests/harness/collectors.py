"""An OTLP collector on loopback that keeps the spans it receives over HTTP or gRPC, and the log lines over HTTP."""

import gzip
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from harness.waiting import until

PATH, LOGS_PATH = "/v1/traces", "/v1/logs"
GRPC_PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(frozen=True)
class Span:
    """A received span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    trace_state: str
    kind: str
    is_error: bool
    text: str
    start: int  # nanoseconds, as its end
    end: int
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / 1e9


@dataclass(frozen=True)
class Log:
    """A received log line."""

    logger: str
    severity: str
    text: str
    trace_id: str
    span_id: str
    attributes: dict[str, Any]


class Collector:
    """A running collector.

    Attributes:
        environment: the variables that make a program send its spans here, soon after they end.
        refused: whether requests fail with a status that is not retried.
    """

    def __init__(self, protocol: str = "http/protobuf") -> None:
        self._spans: list[Span] = []
        self._logs: list[Log] = []
        self._lock = Lock()
        self.refused = False
        self._stop: Callable[[], object]
        port = self._serve_grpc() if protocol == "grpc" else self._serve_http()
        self.environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def _serve_http(self) -> int:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == LOGS_PATH:
                    is_taken = collector._take_logs(ExportLogsServiceRequest.FromString(body))
                else:
                    is_taken = self.path == PATH and collector._take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if is_taken else 400)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        serving = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        serving.start()

        def stop() -> None:
            server.shutdown()
            server.server_close()
            serving.join()

        self._stop = stop
        return int(server.server_address[1])

    def _serve_grpc(self) -> int:
        def export(request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
            if not self._take(request):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
            return ExportTraceServiceResponse()

        handler = grpc.unary_unary_rpc_method_handler(
            export,
            request_deserializer=ExportTraceServiceRequest.FromString,
            response_serializer=ExportTraceServiceResponse.SerializeToString,
        )
        server = grpc.server(ThreadPoolExecutor(2))
        service, _, method = GRPC_PATH[1:].rpartition("/")
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
        port: int = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._stop = lambda: server.stop(0).wait()
        return port

    def _take(self, request: ExportTraceServiceRequest) -> bool:
        if self.refused:
            return False
        found = [
            _span(span, _values(traces.resource.attributes))
            for traces in request.resource_spans
            for scope in traces.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += found
        return True

    def _take_logs(self, request: ExportLogsServiceRequest) -> bool:
        found = [
            Log(
                logger=scope.scope.name,
                severity=log.severity_text,
                text=log.body.string_value,
                trace_id=log.trace_id.hex(),
                span_id=log.span_id.hex(),
                attributes=_values(log.attributes),
            )
            for logs in request.resource_logs
            for scope in logs.scope_logs
            for log in scope.log_records
        ]
        with self._lock:
            self._logs += found
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def spans(self) -> list[Span]:
        """Returns the spans so far."""
        with self._lock:
            return list(self._spans)

    def logs(self) -> list[Log]:
        """Returns the log lines so far."""
        with self._lock:
            return list(self._logs)

    def trace(self, trace_id: str, spans: int) -> list[Span]:
        """Waits until this number of spans of a trace has arrived, and returns them in the order of their arrival."""

        def find() -> list[Span]:
            found = [span for span in self.spans() if span.trace_id == trace_id]
            return found if len(found) >= spans else []

        return until(find)

    def ended(self, trace_id: str) -> list[Span]:
        """Waits until the call of a trace has ended, and returns the spans of the trace."""

        def find() -> list[Span]:
            found = [span for span in self.spans() if span.trace_id == trace_id]
            return found if any(span.kind == "SERVER" for span in found) else []

        return until(find)

    def named(self, name: str) -> list[Span]:
        """Waits for spans with this name, and returns them."""
        return until(lambda: [span for span in self.spans() if span.name == name])


def _span(span: SpanMessage, resource: dict[str, Any]) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        trace_state=span.trace_state,
        kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
        text=str(span),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        resource=resource,
    )


def _values(attributes: "Any") -> dict[str, Any]:
    pairs: list[KeyValue] = list(attributes)
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
