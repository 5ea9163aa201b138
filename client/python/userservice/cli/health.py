"""``userservice health``: asks a service for its health, as a probe of Kubernetes, Docker or systemd.

Probes start the command every few seconds, so the command imports as little as possible.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from userservice.cli.exit_codes import CREDENTIALS, INTERRUPTED, NOT_FOUND, SUCCESS, UNAVAILABLE, USAGE

if TYPE_CHECKING:
    import grpc

    from userservice._address import Address

DEFAULT_ADDRESS = "127.0.0.1:50051"  # where `userservice serve` listens by default

_DEFAULT_SECONDS = 3.0
_STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")  # HealthCheckResponse.ServingStatus
_SERVING = 1


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code."""
    # grpc reads this variable when it is imported. The value disables the messages that grpc prints on standard error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    options = _parser().parse_args(arguments)
    try:
        return _check(options)
    except ValueError as error:
        return _fail(USAGE, str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Prints errors in one line, as the other commands do."""

    def error(self, message: str) -> NoReturn:
        """Prints the error and exits."""
        sys.exit(_fail(USAGE, message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="userservice health",
        description="Check the health of a service, as a probe does. Exit codes: 0 serving; 5 not serving or no "
        "answer; 3 the service has no health status with this name; 4 the credentials are rejected; 2 usage.",
    )
    parser.add_argument(
        "--address",
        default=_variable("ADDRESS") or _variable("LISTEN") or DEFAULT_ADDRESS,
        help="HOST:PORT, unix:/PATH, or another address that the clients accept; https:// selects TLS. Default: "
        f"USERSERVICE_ADDRESS, else USERSERVICE_LISTEN (where serve listens), else {DEFAULT_ADDRESS}.",
    )
    parser.add_argument(
        "--service",
        default="",
        metavar="NAME",
        help="Name of the health status: empty (the default) or the full name of a service selects readiness; "
        "liveness selects liveness.",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=_DEFAULT_SECONDS,
        metavar="SECONDS",
        help="Limit for connection and answer; the default is %(default)s.",
    )
    for option, name, description in (
        ("--tls-ca", "CA", "File with the authorities that sign the certificate of the service (PEM)"),
        ("--tls-cert", "CERT", "File with the client certificate and its chain (PEM)"),
        ("--tls-key", "KEY", "File with the private key of the client certificate (PEM)"),
    ):
        parser.add_argument(
            option, default=_variable(name), metavar="FILE", help=f"{description}. Default: USERSERVICE_{name}."
        )
    parser.add_argument(
        "--tls-server-name",
        metavar="NAME",
        help="Name that the certificate of the service must have, if it is not the host of the address.",
    )
    return parser


def _variable(name: str) -> str | None:
    return os.environ.get(f"USERSERVICE_{name}") or None  # an empty variable counts as absent


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if 0 < seconds < math.inf:
            return seconds
    raise argparse.ArgumentTypeError("must be a number of seconds above 0")


def _check(options: argparse.Namespace) -> int:
    """Makes the call and prints its result.

    Raises:
        ValueError: an option is invalid.
    """
    from userservice._address import parse_address  # noqa: PLC0415 - not needed for --help

    address = parse_address(options.address)
    if len(address.targets) != 1:
        raise ValueError("--address must be the address of one server, because each has a health of its own")
    with _channel(options, address) as channel:
        return _ask(channel, options)


def _channel(options: argparse.Namespace, address: Address) -> grpc.Channel:
    import grpc  # noqa: PLC0415 - takes the most time

    from userservice._proxies import proxy_options  # noqa: PLC0415

    [target] = address.targets
    channel_options = [*proxy_options(target), ("grpc.enable_retries", 0)]
    files = (options.tls_ca, options.tls_cert, options.tls_key)
    if not any((address.tls, options.tls_server_name, *files)):
        return grpc.insecure_channel(target.name, channel_options)
    if address.tls is False:
        raise ValueError("the --tls options need TLS, and an address with http:// asks for plain text")
    from userservice._tls import TlsSettings  # noqa: PLC0415 - not needed without TLS

    if options.tls_server_name:
        channel_options.append(("grpc.ssl_target_name_override", options.tls_server_name))
    return grpc.secure_channel(target.name, TlsSettings(*files).load(), channel_options)


def _ask(channel: grpc.Channel, options: argparse.Namespace) -> int:
    import grpc  # noqa: PLC0415
    from google.protobuf.wrappers_pb2 import Int32Value, StringValue  # noqa: PLC0415

    # Field 1 of HealthCheckRequest is a string, field 1 of HealthCheckResponse an enum. These messages are encoded in
    # the same way, and the client does not depend on the package of the health service.
    request = StringValue(value=options.service).SerializeToString()
    check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
    try:
        answer = check(request, timeout=options.timeout)
    except grpc.RpcError as error:
        return _fail(*_failure(error, options))
    status = Int32Value.FromString(answer).value
    name = _STATUSES[status] if 0 <= status < len(_STATUSES) else str(status)
    _print(1, f"{options.service or 'userservice'}: {name}")
    return SUCCESS if status == _SERVING else UNAVAILABLE


def _failure(error: grpc.RpcError, options: argparse.Namespace) -> tuple[int, str]:
    """Returns the exit code and the text for a failed call."""
    import grpc  # noqa: PLC0415

    code, details = error.code(), " ".join((error.details() or "").split())
    match code:
        case grpc.StatusCode.NOT_FOUND:
            return NOT_FOUND, f"the service at {options.address} has no health of the name {options.service!r}"
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return CREDENTIALS, f"{options.address} rejects the credentials: {details}"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return UNAVAILABLE, f"no answer from {options.address} within {options.timeout:g} s (--timeout)"
    return UNAVAILABLE, f"no answer from {options.address}: {code.name}: {details}"


def _fail(code: int, message: str) -> int:
    _print(2, f"userservice: error: {message}")
    return code


def _print(descriptor: int, line: str) -> None:
    # The exit code is the result, also if nobody reads the output.
    with suppress(OSError):
        os.write(descriptor, f"{line}\n".encode(errors="backslashreplace"))
