"""Raw stubs, each with its own channel."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from userservice.v1.session_service_pb2_grpc import SessionServiceStub
from userservice.v1.user_service_pb2_grpc import UserServiceStub

if TYPE_CHECKING:
    from userservice.v1.session_service_pb2_grpc import SessionServiceAsyncStub
    from userservice.v1.user_service_pb2_grpc import UserServiceAsyncStub

# A pool of its own keeps one test's connection, and its back-off, out of the next test.
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


@dataclass(frozen=True)
class Stubs:
    channel: grpc.aio.Channel
    users: "UserServiceAsyncStub"
    sessions: "SessionServiceAsyncStub"


@contextlib.asynccontextmanager
async def connect(address: str, *options: tuple[str, int]) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(address, [*OPTIONS, *options]) as channel:
        yield Stubs(channel, UserServiceStub(channel), SessionServiceStub(channel))


@dataclass(frozen=True)
class BlockingStubs:
    channel: grpc.Channel
    users: UserServiceStub
    sessions: SessionServiceStub


@contextlib.contextmanager
def connect_blocking(address: str) -> Iterator[BlockingStubs]:
    with grpc.insecure_channel(address, OPTIONS) as channel:
        yield BlockingStubs(channel, UserServiceStub(channel), SessionServiceStub(channel))


def raw(channel: grpc.Channel) -> Any:
    """Returns a channel for calls with encoded requests, which the types of grpcio do not allow."""
    return channel


def health(address: str, service: str = "") -> str:
    """Returns the serving status that the standard health service reports."""
    with grpc.insecure_channel(address, OPTIONS) as channel:
        answer = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=5, wait_for_ready=True)
        return str(HealthCheckResponse.ServingStatus.Name(answer.status))
