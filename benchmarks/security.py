"""`python -m benchmarks.security`: measures the cost of TLS and authentication, and the effect of rejected calls.

The costs are CPU time of the serving process and not calls per second, because the load generator uses the same cores
and, with TLS, also decrypts. All servers run at the same time and are measured in turn. The cost of a verified
credential is measured in this process (authentication.py), because two services differ by more than this cost. The
argument `abort` starts the server that only aborts calls.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.message import Message

from benchmarks import authentication, engines, programs, rejections, stores
from benchmarks.cpu import cpu_nanoseconds
from benchmarks.population import user_id
from loadgen import h2load
from userservice.v1.user_service_pb2 import GetUserRequest, ListUsersChunkedRequest
from userservice_server.transport.credentials.key_format import new_key

_REJECTED = 3000
_SLOWDOWN = f"p99 of GetUser with a key beside {_REJECTED} rejected calls per second, relative to the p99 without them"
_REJECTION = "call without a credential, relative to an abort of grpcio with the engine of the service"
_TARGETS = {
    "GetUser with TLS, rate relative to plaintext": (">=", 0.85),
    "stream with TLS, rate relative to plaintext": (">=", 0.5),
    "key, microseconds per call": ("<=", 5.0),
    "JWT, microseconds per call": ("<=", 10.0),
    _REJECTION: ("<=", 1.2),
    _SLOWDOWN: ("<=", 2.0),
}
ISSUER, AUDIENCE = "issuer", "audience"
_GET, _LIST = "UserService/GetUser", "UserService/ListUsersChunked"


class Aborting(grpc.GenericRpcHandler):
    """Rejects every call with grpcio's abort and nothing else, with error details of the usual size."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler of every method."""
        del handler_call_details
        return grpc.unary_unary_rpc_method_handler(self._abort)

    async def _abort(self, _request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        details = (("grpc-status-details-bin", b"x" * 220),)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no credential", details)
        raise AssertionError("abort raises")


async def _serve_aborts() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Aborting()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"abort listening on 127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def _load(
    program: programs.Program, method: str, request: Message, calls: int, *, scheme: str, token: str, streams: int
) -> tuple[float, float]:
    """Makes calls; returns CPU seconds of the server per call, and seconds per call."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(h2load.grpc_frame(request))
        body.flush()
        command = [h2load.program(), "-n", str(calls), "-c", "4", "-m", str(streams), "-t", "1", "-d", body.name]
        headers = [
            "content-type: application/grpc",
            "te: trailers",
            *([f"authorization: Bearer {token}"] * bool(token)),
        ]
        command += [part for header in headers for part in ("-H", header)]
        command.append(f"{scheme}://127.0.0.1:{program.port}/userservice.v1.{method}")
        before, started = cpu_nanoseconds(program.pid), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        seconds, cpu = time.perf_counter() - started, (cpu_nanoseconds(program.pid) - before) / 1e9
    if f"{calls} succeeded" not in done.stdout:
        raise SystemExit(f"h2load: {done.stdout[-300:]}")
    return cpu / calls, seconds / calls


def _make_certificate(folder: Path) -> None:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(1))
        .not_valid_after(now + timedelta(30))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "key").chmod(0o600)


def make_credentials(folder: Path) -> tuple[list[str], str, str]:
    """Returns the options of the server, a key, and a token."""
    api_key, issuer_key = new_key(), ec.generate_private_key(ec.SECP256R1())
    entry = f'[keys.{api_key.id}]\nsha256 = "{api_key.digest.hex()}"\nscopes = ["*"]\n'
    (folder / "keys.toml").write_text(entry, encoding="utf-8")
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(issuer_key.public_key(), as_dict=True)
    (folder / "jwks").write_text(json.dumps({"keys": [{**jwk, "kid": "a"}]}), encoding="utf-8")
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "job",
        "exp": int(time.time()) + 3600,
        "scope": "*",
        "filler": "x" * 400,
    }
    token = jwt.encode(claims, issuer_key, "ES256", {"kid": "a"})
    options = ["--auth", "keys,jwt", "--keys-file", str(folder / "keys.toml"), "--jwt-jwks", str(folder / "jwks")]
    return [*options, "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE], api_key.text, token


@dataclass(frozen=True, slots=True)
class _Results:
    """What a run measured.

    Attributes:
        costs: CPU seconds of the server and elapsed seconds of a call, for each case and round.
        added: microseconds of CPU time that authentication adds to a call, by the kind of the credential.
        slowdowns: the effect of rejected calls, by their number per second (rejections.py).
    """

    costs: dict[str, list[tuple[float, float]]]
    added: dict[str, float]
    slowdowns: dict[int, tuple[float, float, float]]


def _measure(rounds: int, calls: int, users: int) -> _Results:
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="userservice-bench-") as made, ExitStack() as running:
        folder = Path(made)
        store = running.enter_context(stores.running(folder / "store"))
        store.fill(users)
        _make_certificate(folder)
        options, key, token = make_credentials(folder)
        tls = ["--tls-cert", str(folder / "cert"), "--tls-key", str(folder / "key")]
        plain = running.enter_context(programs.service("plain", store.url, folder))
        with_tls = running.enter_context(programs.service("tls", store.url, folder, *tls))
        with_auth = running.enter_context(programs.service("auth", store.url, folder, *options))
        command = [sys.executable, "-m", "benchmarks.security", "abort"]
        # The service selects an engine that needs less CPU than grpcio's default; this program does not.
        abort, slow_abort = (
            running.enter_context(programs.Program(f"abort-{name}", command, folder, engines.environment(engine)))
            for name, engine in (("same", engines.TUNED), ("default", engines.DEFAULT))
        )
        constant = running.enter_context(
            programs.constant("constant", store.records()[0], users, folder, engines.SERVICE)
        )
        get, listing = GetUserRequest(user_id=user_id(1)), ListUsersChunkedRequest(chunk_size=1000)
        cases: dict[str, tuple[Any, ...]] = {
            "GetUser, key": (with_auth, _get(get, calls), "http", key),
            "GetUser, token": (with_auth, _get(get, calls), "http", token),
            "GetUser, no header": (plain, _get(get, calls), "http", ""),
            "GetUser, TLS": (with_tls, _get(get, calls), "https", ""),
            "rejected": (with_auth, _get(get, calls), "http", ""),
            "abort of grpcio": (abort, _get(get, calls), "http", ""),
            "abort of grpcio with its default engine": (slow_abort, _get(get, calls), "http", ""),
            "grpcio that returns constant bytes": (constant, _get(get, calls), "http", ""),
            "stream": (plain, (_LIST, listing, 20, 1), "http", ""),
            "stream, TLS": (with_tls, (_LIST, listing, 20, 1), "https", ""),
        }
        for number in range(rounds + 1):
            for name, (program, (method, request, count, streams), scheme, credential) in cases.items():
                cost = _load(program, method, request, count, scheme=scheme, token=credential, streams=streams)
                if number:  # the first round warms up
                    found.setdefault(name, []).append(cost)
        verifier = authentication.verifier(folder / "keys.toml", folder / "jwks", ISSUER, AUDIENCE)
        added = {
            kind: authentication.added_microseconds(verifier, text) for kind, text in (("key", key), ("JWT", token))
        }
        return _Results(found, added, rejections.slowdowns(with_auth.port, key, rounds))


def _get(request: Message, calls: int) -> tuple[str, Message, int, int]:
    return _GET, request, calls, 16


def _report(results: _Results) -> bool:
    """Prints the figures; returns whether all figures reach their targets."""
    found = results.costs
    cpu = {name: statistics.median(cost for cost, _ in costs) * 1e6 for name, costs in found.items()}
    for name, microseconds in cpu.items():
        wall = statistics.median(seconds for _, seconds in found[name]) * 1e6
        sys.stdout.write(f"{name}: {microseconds:,.1f} us of CPU time per call, {wall:,.1f} us elapsed\n")
    figures = {
        "GetUser with TLS, rate relative to plaintext": cpu["GetUser, no header"] / cpu["GetUser, TLS"],
        "stream with TLS, rate relative to plaintext": cpu["stream"] / cpu["stream, TLS"],
        "key, microseconds per call": results.added["key"],
        "JWT, microseconds per call": results.added["JWT"],
        _REJECTION: cpu["rejected"] / cpu["abort of grpcio"],
        _SLOWDOWN: results.slowdowns[_REJECTED][0],
    }
    for rate, (ratio, seconds, made) in results.slowdowns.items():
        text = (
            f"{rate:,} rejected calls per second ({made:,.0f} made): p99 of GetUser with a key {seconds * 1e3:.1f} ms"
        )
        sys.stdout.write(f"{text}, {ratio:.2f} times the p99 without them\n")
    is_met = True
    for name, value in figures.items():
        relation, target = _TARGETS[name]
        holds = value >= target if relation == ">=" else value <= target
        is_met = is_met and holds
        sys.stdout.write(f"{name}: {value:.2f} (wanted {relation} {target:g}{'' if holds else ', MISSED'})\n")
    return is_met


def main() -> int:
    """Returns the exit code: 0 if all figures reach their targets, otherwise 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.security", description=__doc__)
    parser.add_argument("server", nargs="?", choices=["abort"], help="start the server that only aborts")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--calls", type=int, default=4000, help="calls in each round")
    parser.add_argument("--users", type=int, default=20_000)
    arguments = parser.parse_args()
    if arguments.server:
        uvloop.run(_serve_aborts())
        return 0
    return 0 if _report(_measure(arguments.rounds, arguments.calls, arguments.users)) else 1


if __name__ == "__main__":
    sys.exit(main())
