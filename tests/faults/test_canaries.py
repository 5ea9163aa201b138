"""The text of a handler's failure appears neither in responses nor in log lines."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from harness import raw, sabotaged
from harness.connections import connect
from harness.population import fill
from harness.services import Service
from harness.sizing import FULL
from harness.stores import Store

from userservice.v1 import session_service_pb2, user_service_pb2

CANARY = "canary redis://:Tr0ub4dor@10.1.2.3:6379 /srv/secret/path ada.lovelace@example.com"
SINGS = ["canary", "Tr0ub4dor", "10.1.2.3", "/srv/secret", "lovelace"]
WAYS = list(sabotaged.HOW) if FULL else ["chained", "every text"]


def requests() -> list[tuple[str, bytes, bool]]:
    """Returns a valid request for every RPC."""
    found = []
    for module, name in ((user_service_pb2, "UserService"), (session_service_pb2, "SessionService")):
        service = module.DESCRIPTOR.services_by_name[name]
        for method in service.methods:
            request: Any = GetMessageClass(method.input_type)()
            names = method.input_type.fields_by_name
            if "user_id" in names:
                request.user_id = "ada.lovelace@example.com"
            if "session_id" in names:
                request.session_id = "s"
            if "import_id" in names:
                request.import_id = str(uuid4())
            if "options" in names:
                request.options.import_id = str(uuid4())
            if "now" in names:
                request.now = True
            if "filter" in names:
                request.filter = 'email = "ada.lovelace@example.com"'
            for field in {"emails", "user_ids"} & set(names):
                getattr(request, field).append("ada.lovelace@example.com")
            found.append((f"/{service.full_name}/{method.name}", request.SerializeToString(), method.server_streaming))
    return found


@pytest.mark.parametrize("where", ["decoding", "domain", "store"])
@pytest.mark.parametrize("how", WAYS)
async def test_no_response_and_no_log_line_contains_a_canary(where: str, how: str) -> None:
    program = [Path(sabotaged.__file__)]
    environment = {"CANARY": CANARY, "WHERE": where, "HOW": how}
    with Store() as store:
        fill(store, ["ada.lovelace@example.com"])
        with Service(redis_url=store.url, program=program, environment=environment) as service:
            async with connect(service.address) as stubs:
                said = [await answer(stubs.channel, *request) for request in requests()]
            assert await asyncio.to_thread(service.stop) == 0
            for line in [*said, *service.stdout, *service.stderr]:
                assert [song for song in SINGS if song in line] == [], line
            assert sum(line["level"] == "ERROR" for line in service.log) == len(said)


async def answer(channel: grpc.aio.Channel, path: str, request: bytes, is_stream: bool) -> str:  # noqa: FBT001
    """Returns everything that a caller receives when a call fails."""
    call = (
        collected(raw.unary_stream(channel, path)(request, timeout=10)) if is_stream else unary(channel, path, request)
    )
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    error = raised.value
    assert error.code() is grpc.StatusCode.INTERNAL
    metadata = [*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())]
    return f"{error.code()} {error.details()} {metadata} {error.debug_error_string()}"


async def unary(channel: grpc.aio.Channel, path: str, request: bytes) -> None:
    await raw.unary_unary(channel, path)(request, timeout=10)


async def collected(stream: "grpc.aio.UnaryStreamCall[bytes, bytes]") -> None:
    async for _ in stream:
        pass
