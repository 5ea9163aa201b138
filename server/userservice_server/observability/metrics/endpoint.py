"""The HTTP server of ``--metrics-listen``. It answers GET /metrics, each connection in a separate thread.

A client that sends its request slowly, or does not read the response, occupies one of 16 connections for at most 5 s.
"""

import logging
import socket
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import Any

from userservice_server.config import ConfigError

PATH = "/metrics"
MAX_CONNECTIONS = 16  # if there are more, the oldest one is closed
MAX_SECONDS = 5.0  # maximum duration of a connection
_POLL_SECONDS = 0.5

logger = logging.getLogger("userservice.metrics")

Render = Callable[[str], tuple[bytes, str]]
"""Returns the body of a response and its content type, by the header Accept of the request."""


class MetricsEndpoint:
    """Serves metrics at an address.

    Args:
        host: the host to listen on.
        port: the port to listen on; 0 selects a free port.
        render: returns the body and content type of a response.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(self, host: str, port: int, render: Render) -> None:
        try:
            family, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            self._server = _Server(family, address, render)
        except OSError as error:
            why = error.strerror or "no such address"
            raise ConfigError(f"cannot listen on {host}:{port}: {why} (--metrics-listen)") from None
        except UnicodeError:
            raise ConfigError(
                f"cannot listen on {host}:{port}: the host is not a valid name (IDNA) (--metrics-listen)"
            ) from None
        self._address = f"{host}:{self._server.server_address[1]}"

    def start(self) -> None:
        """Starts to answer, and logs the address."""
        Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,), name="metrics", daemon=True).start()
        logger.info("serving metrics", extra={"address": self._address})


class _Server(ThreadingMixIn, TCPServer):
    """Answers each connection in a thread; limits the number and the duration of connections."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True  # ignores closed connections in TIME_WAIT
    allow_reuse_port = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, family: socket.AddressFamily, address: Any, render: Render) -> None:
        self.address_family = family
        self.render = render
        self._open: dict[socket.socket, float] = {}  # the oldest connection first
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called in the thread of the server: starts to answer a connection."""
        for oldest in list(self._open)[: len(self._open) + 1 - MAX_CONNECTIONS]:
            self._end(oldest)
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called in the thread of the server, at least every _POLL_SECONDS: ends connections that last too long."""
        for request, since in list(self._open.items()):
            if time.monotonic() > since + MAX_SECONDS:
                self._end(request)

    def _end(self, request: socket.socket) -> None:
        """Shuts a socket down: reads and writes of its thread return at once, and the thread closes the connection."""
        self._open.pop(request, None)
        try:
            request.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the connection has ended meanwhile

    def shutdown_request(self, request: Any) -> None:
        """Called in the thread of a connection at its end."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as in the base class
        """Called in the thread of a connection that an exception has ended; logs a fault of the service."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # else the client has disconnected, or was disconnected
            logger.error("the metrics cannot be shown", extra={"cause": type(error).__name__})


class _Handler(BaseHTTPRequestHandler):
    """Answers one request. The connection ends with the response (HTTP/1.0)."""

    server_version = "userservice"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        """Answers GET."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, explain=f"only {PATH} is served here")
            return
        body, content_type = self.server.render(self.headers.get("Accept", ""))
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as the base class names it
        """Logs nothing: scrapes are frequent."""
