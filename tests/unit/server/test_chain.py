"""The order of the interceptors, tested by its effects on successful, rejected and failed calls."""

import asyncio
import logging
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from harness import raw
from harness.failures import Failure, failure_of
from harness.shapes import PATH, chain_settings, serving

from userservice_server.transport import interceptors
from userservice_server.transport.call import Call
from userservice_server.transport.interceptors import Settings


class Servicer:
    """A servicer whose first call runs until it is released; other calls must be rejected before they reach it."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.released = asyncio.Event()

    async def UnaryUnary(self, request: StringValue, _call: Call) -> bytes:  # noqa: N802
        self.entered.set()
        await self.released.wait()
        return request.SerializeToString()

    UnaryStream = StreamUnary = StreamStream = UnaryUnary


@pytest.fixture(autouse=True)
def _logging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "userservice.access")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The fields of the lines of the access log."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(interceptors, "add_line", lambda *line: lines.append(line[-1]))
    return lines


async def failed(channel: grpc.aio.Channel, request: bytes, **options: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await raw.unary_unary(channel, PATH + "UnaryUnary")(request, timeout=10, **options)
    return failure_of(raised.value)


async def rejected(settings: Settings, request: bytes = b"", **options: Any) -> Failure:
    """Makes a call while another call is running and the limit is one call."""
    servicer = Servicer()
    async with serving(servicer, settings) as channel:
        running = asyncio.ensure_future(raw.unary_unary(channel, PATH + "UnaryUnary")(b"", timeout=10))
        await servicer.entered.wait()
        failure = await failed(channel, request, **options)
        servicer.released.set()
        await running
    return failure


async def test_a_rejected_call_is_logged_with_the_id_that_its_caller_receives(log: list[dict[str, Any]]) -> None:
    failure = await rejected(chain_settings(max_calls=1), metadata=[("x-request-id", "the-call")])
    assert (failure.code, failure.reason, failure.request_id) == ("RESOURCE_EXHAUSTED", "OVERLOADED", "the-call")
    assert [(line["code"], line["limit"]) for line in log if line["request_id"] == "the-call"] == [
        ("RESOURCE_EXHAUSTED", "calls")
    ]


async def test_a_rejected_call_without_an_id_gets_an_id() -> None:
    assert (await rejected(chain_settings(max_calls=1))).request_id


async def test_a_rejected_call_is_counted_until_it_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, running = chain_settings(max_calls=1), []
    monkeypatch.setattr(interceptors, "add_line", lambda *_: running.append(settings.drain.running))
    await rejected(settings)
    assert running == [2, 1], "the rejected call while the other one runs, then the other one"
    assert settings.drain.running == 0


async def test_a_rejected_call_costs_no_decoding() -> None:
    assert (await rejected(chain_settings(max_calls=1), b"\xff" * 100)).reason == "OVERLOADED"


async def test_a_call_is_logged_with_the_code_that_its_caller_receives(log: list[dict[str, Any]]) -> None:
    async with serving(Servicer(), chain_settings(call_timeout=0.1)) as channel:
        assert (await failed(channel, b"\xff" * 100)).reason == "INVALID_FIELD"
        assert (await failed(channel, b"")).reason == "DEADLINE_EXCEEDED"
    assert [line["code"] for line in log] == ["INVALID_ARGUMENT", "DEADLINE_EXCEEDED"]


async def test_a_failed_call_frees_its_place() -> None:
    async with serving(Servicer(), chain_settings(max_calls=1)) as channel:
        for _ in range(3):
            assert (await failed(channel, b"\xff")).reason == "INVALID_FIELD"
