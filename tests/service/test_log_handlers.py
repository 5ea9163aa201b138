"""Handlers of other libraries receive the lines of the log: the functions of examples/log_handlers."""

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from harness.collectors import Collector
from harness.connections import connect, connect_blocking
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1.user_service_pb2 import GetUserRequest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "log_handlers"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ENTRIES = {"time", "level", "logger", "message"}  # of every line; other fields are attributes
SEVERITIES = {"WARNING": "WARN"}


def in_path(folder: Path) -> dict[str, str]:
    """Returns the variable that makes the modules of a folder importable."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


async def test_the_handler_of_opentelemetry_receives_every_line_of_every_process() -> None:
    with Collector() as collector, Store() as store:
        arguments = ("--log-handler", "log_handlers:opentelemetry", "--workers", "2")
        with Service(*arguments, redis_url=store.url, environment=in_path(EXAMPLE) | collector.environment) as service:
            async with connect(service.address) as stubs:
                with pytest.raises(grpc.aio.AioRpcError):
                    await stubs.users.GetUser(
                        GetUserRequest(user_id="absent"), metadata=[("traceparent", f"00-{TRACE}-{SPAN}-01")]
                    )
            assert service.stop() == 0
        lines = service.log
        received = [(log.logger, log.severity, log.text) for log in collector.logs()]
        written = [(line["logger"], SEVERITIES.get(line["level"], line["level"]), line["message"]) for line in lines]
        assert sorted(received) == sorted(written)
        [call] = [line for line in lines if line["message"] == "call"]
        [log] = [log for log in collector.logs() if log.text == "call"]
        fields = {name: value for name, value in call.items() if name not in ENTRIES}
        assert fields.items() <= log.attributes.items()
        assert {"worker", "method", "code", "request_id", "duration_ms", "trace_id"} <= fields.keys()
        [span] = [span for span in collector.trace(TRACE, 2) if span.kind == "SERVER"]
        assert (log.trace_id, log.span_id) == (TRACE, span.span_id), "the line is linked to the span of its call"


def test_a_function_that_fails_is_one_clear_line_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def create():\n    raise ValueError('https://key@host')\n")
    environment = in_path(tmp_path)
    arguments = ("--log-handler", "broken:create", "--workers", "2")
    with Service(*arguments, data_dir=tmp_path / "data", environment=environment, wait=False) as service:
        assert service.wait() == 2
        where = tmp_path / "broken.py"
        assert service.stderr == [f"userservice: error: --log-handler broken:create failed: ValueError at {where}:2"]


@contextmanager
def sentry() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Runs a server that accepts the requests of Sentry's SDK; yields its DSN and the list of received events."""
    events: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            entries = [json.loads(entry) for entry in body.splitlines() if entry.startswith(b"{")]
            events.extend(entry for entry in entries if "logger" in entry)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    try:
        yield f"http://key@127.0.0.1:{server.server_address[1]}/1", events
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


@pytest.mark.long
def test_the_handler_of_sentry_receives_errors_without_data_of_users() -> None:
    pytest.importorskip("sentry_sdk")
    with sentry() as (dsn, events), Store() as store:
        environment = {**in_path(EXAMPLE), "SENTRY_DSN": dsn}
        arguments = ("--log-handler", "log_handlers:sentry")
        with Service(*arguments, redis_url=store.url, environment=environment) as service:
            with store.client() as client:
                client.set("userservice:{0}:user_ids", "not what it should be")
            metadata = (("x-request-id", "the-call"), ("traceparent", f"00-{TRACE}-{SPAN}-00"))
            with connect_blocking(service.address) as stubs, pytest.raises(grpc.RpcError):
                stubs.users.GetUser(GetUserRequest(user_id="secret-user"), metadata=metadata)
            until(lambda: events)
            assert service.stop() == 0
        errors = [line for line in service.log if line["level"] == "ERROR"]
    assert [(event["logger"], event["level"]) for event in events] == [(error["logger"], "error") for error in errors]
    [event] = [event for event in events if event["logger"] == "userservice.errors"]
    assert (event["extra"]["request_id"], event["extra"]["trace_id"]) == ("the-call", TRACE)
    assert event["logentry"]["message"] == "internal error"
    assert "secret-user" not in json.dumps(events)
