"""The scopes of credentials, and the scope that each method requires."""

from collections.abc import Iterable
from typing import Protocol

from google.protobuf.descriptor_pb2 import MethodOptions

from userservice.v1.options_pb2 import required_scope as SCOPE_OPTION  # noqa: N812 - a constant
from userservice_server.config import ConfigError

SCOPES = frozenset(
    (
        "users.read",
        "users.list",
        "users.write",
        "users.import",
        "users.watch",
        "sessions.read",
        "sessions.write",
        "admin",
    )
)
ALL_SCOPES = "*"  # grants all scopes

ANY_CREDENTIAL = ""  # the method requires a valid credential, but no scope

# Services of other projects do not have our proto option. Any other service without the option prevents the start.
_FOREIGN_SERVICES = {
    "grpc.health.v1.Health": None,  # probes have no credential, and the response contains only a status
    "grpc.reflection.v1.ServerReflection": ANY_CREDENTIAL,
    "grpc.reflection.v1alpha.ServerReflection": ANY_CREDENTIAL,
}


class Method(Protocol):
    """The description of an RPC."""

    @property
    def name(self) -> str:
        """Short name."""

    @property
    def service(self) -> str:
        """Full name of the service that contains the RPC."""

    @property
    def options(self) -> MethodOptions:
        """The options of the method in the proto."""


def required_scope(method: Method) -> str | None:
    """Returns the scope that callers of a method need, ANY_CREDENTIAL, or None if they need no credential.

    Raises:
        ConfigError: the proto declares no scope or an unknown scope for the method.
    """
    scope = str(method.options.Extensions[SCOPE_OPTION])
    if scope in SCOPES:
        return scope
    if not scope and method.service in _FOREIGN_SERVICES:
        return _FOREIGN_SERVICES[method.service]
    problem = f"the unknown scope {scope!r}" if scope else "no scope"
    raise ConfigError(
        f"the method {method.service}/{method.name} declares {problem}: set the option (userservice.v1.required_scope)"
    )


def granted(scopes: Iterable[str]) -> frozenset[str]:
    """Returns the known scopes in a list of scopes; ``*`` grants all scopes."""
    named = frozenset(scopes)
    return SCOPES if ALL_SCOPES in named else named & SCOPES
