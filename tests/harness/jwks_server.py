"""A JWKS server on loopback that can fail, hang, rotate its keys and return wrong data."""

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from harness.credentials import Identity


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing the server waits for its threads

    def handle_error(self, *_: object) -> None:
        """Prints nothing, because tests use clients that do not trust the certificate."""


class JwksServer:
    """Serves `content` with `status` over https, after `delay` seconds; counts the requests."""

    def __init__(self, identity: Identity, folder: Path, content: bytes = b"") -> None:
        self.content = content
        self.status = 200
        self.location = ""
        self.delay = 0.0
        self.pause = 0.0
        self.requests = 0
        (folder / "jwks.pem").write_bytes(identity.key_pem + identity.cert_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "jwks.pem")
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        # The handshake takes place in the thread of the connection, which also closes the socket if it fails.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://localhost:{self._server.server_port}/jwks"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests += 1
                server._closing.wait(server.delay)
                self.send_response(server.status)
                if server.location:
                    self.send_header("Location", server.location)
                self.end_headers()
                for start in range(0, len(server.content), 100 if server.pause else 1 << 20):
                    self.wfile.write(server.content[start : start + (100 if server.pause else 1 << 20)])
                    server._closing.wait(server.pause)

            def log_message(self, *_: object) -> None:
                """Prints nothing."""

        return Handler

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
