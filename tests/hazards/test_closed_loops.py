"""gRPC hands events to closed event loops, and lets the error appear in whichever loop did the handing."""

import asyncio
import contextlib
import socket
import threading
from typing import Any

import grpc
import pytest

from userservice._portal import _Loop


async def begin_a_call(address: str) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
    channel = grpc.aio.insecure_channel(address)
    stub: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/none/None")
    call = stub(b"", wait_for_ready=True)
    await asyncio.sleep(0)  # it begins
    return call


def test_calls_that_a_closed_loop_left_trouble_no_other_loop() -> None:
    # Once is enough. Another loop of this process, of a manager that another test left, can be the one that hands on.
    assert any(is_handed_on() for _ in range(10)), "nothing was handed to the closed loop, so nothing was shown"


def is_handed_on() -> bool:
    """Whether an event for a closed loop came by way of ours, in which no error may appear."""
    errors: list[dict[str, Any]] = []
    handed = asyncio.Event()
    other, closing = asyncio.new_event_loop(), _Loop()
    closing.set_exception_handler(lambda *_: None)  # for a task that is never finished
    other.set_exception_handler(lambda _, context: errors.append(context))
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as patch:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        # Both loops watch gRPC's wake-up socket from their first call on.
        others = other.run_until_complete(begin_a_call(address))
        left = closing.run_until_complete(begin_a_call(address))
        # gRPC tells the loop of the call that it was cancelled; that one has its last turn behind it.
        assert left.cancel()
        closing.close()
        accept, ours = closing.call_soon_threadsafe, threading.current_thread()

        def watch(*arguments: Any, **options: Any) -> object:
            if threading.current_thread() is ours:
                handed.set()
            return accept(*arguments, **options)

        patch.setattr(closing, "call_soon_threadsafe", watch)
        with contextlib.suppress(TimeoutError):
            other.run_until_complete(asyncio.wait_for(handed.wait(), 2))
        others.cancel()
        other.run_until_complete(asyncio.wait([asyncio.ensure_future(others.code(), loop=other)]))
    other.close()
    assert errors == []
    return handed.is_set()
