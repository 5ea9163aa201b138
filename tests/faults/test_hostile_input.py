"""Every input gets a response as the contract specifies, and everything stored can be read."""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value
from harness.connections import connect, health
from harness.failures import failure_of
from harness.services import Service
from harness.sizing import sized
from harness.stores import Store

from userservice import UserManager
from userservice.v1 import session_service_pb2, user_service_pb2
from userservice.v1.user_service_pb2 import AddUserRequest
from userservice_server.check import check

pytestmark = pytest.mark.long

METHODS = [
    (f"/{service.full_name}/{method.name}", method)
    for module, name in ((user_service_pb2, "UserService"), (session_service_pb2, "SessionService"))
    for service in [module.DESCRIPTOR.services_by_name[name]]
    for method in service.methods
]
# The outcomes that the contract allows for any request.
CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "ABORTED", "FAILED_PRECONDITION"}
MIB = 1 << 20


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture(scope="module")
def service(store: Store) -> Iterator[Service]:
    with Service("--access-log", "false", redis_url=store.url) as service:
        yield service
        assert service.stop() == 0


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def nested(levels: int) -> bytes:
    """Returns an encoded Struct with the given depth, built without a parser, which would reject it."""
    content = b""
    for _ in range(levels - 1):
        content = field(1, field(1, b"k") + field(2, field(5, content)))
    return content


class Fuzzer:
    """Generates random requests, and valid requests that are then damaged."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def request(self) -> bytes:
        make = self._dice.choice(
            [
                self._noise,
                self._sound,
                self._sound,
                self._damaged,
                self._damaged,
                self._bad_text,
                self._deep,
                self._unknown,
                self._large,
            ]
        )
        return make()

    def _noise(self) -> bytes:
        return self._dice.randbytes(self._dice.randrange(200))

    def _text(self) -> bytes:
        pieces = [
            "a",
            "é",
            "日",
            "😀",
            "\u200b",
            "\x00",
            "\n",
            " ",
            "{0}",
            "*",
            ":",
            "\u202e",
            "\ufeff",
            "'; --",
            "\ud7ff",
        ]
        return "".join(self._dice.choices(pieces, k=self._dice.randrange(1, 40))).encode()

    def _sound(self) -> bytes:
        """Generates fields of the right types in the order of the requests: texts, a Struct, numbers."""
        dice = self._dice
        parts = [field(1, dice.choice([b"ada", b"bob", self._text()]))]
        parts += [field(number, self._text()) for number in (2, 3, 4) if dice.random() < 0.3]
        if dice.random() < 0.5:
            parts.append(field(dice.choice([3, 5]), self._struct().SerializeToString()))
        if dice.random() < 0.2:
            parts.append(varint(dice.choice([1, 2]) << 3) + varint(dice.randrange(1 << dice.choice([7, 31, 63, 64]))))
        return b"".join(parts)

    def _struct(self) -> Struct:
        made = Struct()
        for _ in range(self._dice.randrange(4)):
            value = made.fields[self._text().decode()]
            match self._dice.randrange(5):
                case 0:
                    value.number_value = self._dice.choice([0.0, -0.0, 1e308, float("nan"), float("inf"), 2.0**53 + 2])
                case 1:
                    value.string_value = self._text().decode()
                case 2:
                    value.null_value = NULL_VALUE
                case 3:
                    value.CopyFrom(Value())
                case _:
                    value.list_value.values.add().bool_value = True
        return made

    def _damaged(self) -> bytes:
        content = bytearray(self._sound())
        for _ in range(self._dice.randrange(1, 4)):
            content[self._dice.randrange(len(content))] = self._dice.randrange(256)
        return bytes(content[: self._dice.randrange(len(content)) + 1])

    def _bad_text(self) -> bytes:
        return field(1, self._dice.choice([b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"a\xf5"]))

    def _deep(self) -> bytes:
        return field(1, b"deep") + field(
            self._dice.choice([3, 5]), nested(self._dice.choice([8, 16, 17, 32, 90, 5000]))
        )

    def _unknown(self) -> bytes:
        return self._sound() + field(self._dice.randrange(20, 1 << 20), self._noise())

    def _large(self) -> bytes:
        size = self._dice.choice([65_000, 65_536, 66_000, MIB])
        return field(1, b"large") + field(5, field(1, field(1, b"k") + field(2, field(3, b"x" * size))))


async def test_fuzzed_requests(service: Service, store: Store, dice: random.Random) -> None:
    messages = sized(1500, 10_000)
    fuzzer, remaining = Fuzzer(dice), iter(range(messages))
    codes: Counter[str] = Counter()
    async with connect(service.address) as stubs:

        async def work() -> None:
            for _ in remaining:
                path, method = dice.choice(METHODS)
                request = fuzzer.request()
                codes[code := await code_of(stubs.channel, path, request, is_stream=method.server_streaming)] += 1
                assert code in CODES, (path, request)

        await asyncio.gather(*(work() for _ in range(16)))
    print(dict(codes))  # noqa: T201 - the figure
    assert codes["OK"] > messages / 50, "all was refused, so nothing was shown"
    assert await asyncio.to_thread(health, service.address) == "SERVING"
    assert [line for line in service.log if line["level"] == "ERROR"] == []
    # What was accepted can be read: by the check, which decodes it, and by the managers.
    assert check(store.url, "userservice", 10).findings == []
    async with UserManager(service.address) as manager:
        async for users in manager.list_chunked():
            for user in users:
                assert user.metadata is not None
                assert await manager.get(user.user_id) == user
                sessions = await manager.get_sessions(user.user_id)
                assert {session.user_id for session in sessions} <= {user.user_id}


async def code_of(channel: grpc.aio.Channel, path: str, request: bytes, *, is_stream: bool, **more: object) -> str:
    try:
        if is_stream:
            async for _ in channel.unary_stream(path)(request, timeout=20, **more):  # type: ignore[arg-type]
                pass
        else:
            await channel.unary_unary(path)(request, timeout=20, **more)  # type: ignore[arg-type]
    except grpc.aio.AioRpcError as error:
        failure = failure_of(error)
        assert failure.reason, failure  # the service's own error, with its details
        return failure.code
    return "OK"


@pytest.mark.parametrize("number", [3, 5])  # the fields of metadata of AddSessionRequest and AddUserRequest
async def test_depths(service: Service, store: Store, number: int) -> None:
    """Metadata that is too deep is rejected before it is stored.

    Protobuf can decode fewer levels in a response than in a request, so such a record could not be read.
    """
    path = {3: "/userservice.v1.SessionService/AddSession", 5: "/userservice.v1.UserService/AddUser"}[number]
    async with connect(service.address) as stubs:
        await code_of(stubs.channel, "/userservice.v1.UserService/AddUser", field(1, b"owner"), is_stream=False)
        for levels in (15, 16, 17, 20, 30, 31, 32, 33, 34, 40, 100, 1000):
            name = f"depth{levels}".encode()
            names = field(1, b"owner") + field(2, name) if number == 3 else field(1, name)
            code = await code_of(stubs.channel, path, names + field(number, nested(levels)), is_stream=False)
            assert code == ("OK" if levels <= 16 else "INVALID_ARGUMENT"), levels
    assert check(store.url, "userservice", 10).findings == []


async def test_bytes_that_are_no_http2(service: Service, dice: random.Random) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for number in range(sized(40, 400)):
        with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
            connection.sendall((preface if number % 2 else b"") + dice.randbytes(dice.randrange(1, 2000)))
    assert await asyncio.to_thread(health, service.address) == "SERVING"
    assert service.running


# Size of a header's value, and of a request's body, to what becomes of the call.
HEADERS = {
    1000: {"OK"},
    16_000: {"OK"},
    17_000: {"INVALID_ARGUMENT"},
    250_000: {"INVALID_ARGUMENT"},
    300_000: {"RESOURCE_EXHAUSTED"},
    3_000_000: {"RESOURCE_EXHAUSTED", "UNAVAILABLE"},
}
BODIES = {
    65_521: "OK",
    65_522: "INVALID_ARGUMENT",
    4 * MIB - 100: "INVALID_ARGUMENT",
    4 * MIB + 1: "RESOURCE_EXHAUSTED",
}


@pytest.mark.parametrize("size", HEADERS)
async def test_boundaries_of_headers(service: Service, size: int) -> None:
    async with connect(service.address) as stubs:
        call = stubs.users.AddUser(AddUserRequest(user_id=f"h{size}"), timeout=10, metadata=(("x-large", "x" * size),))
        assert await status(call) in HEADERS[size]
    assert await asyncio.to_thread(health, service.address) == "SERVING"


@pytest.mark.parametrize("size", BODIES)
async def test_boundaries_of_bodies(service: Service, size: int) -> None:
    async with connect(service.address) as stubs:
        metadata = Struct()
        metadata.update({"k": "x" * size})
        call = stubs.users.AddUser(AddUserRequest(user_id=f"b{size}", metadata=metadata), timeout=10)
        assert await status(call) == BODIES[size]
    assert await asyncio.to_thread(health, service.address) == "SERVING"


async def status(call: object) -> str:
    try:
        await call  # type: ignore[misc]
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"
