"""The load generators measure what they say, on the real service."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import overload

from harness.connections import Stubs
from harness.services import Service

from loadgen import http2, open_loop
from loadgen.h2load import grpc_frame
from loadgen.http2 import Request, header_block
from userservice.v1.user_service_pb2 import AddUserRequest, GetUserRequest

RATE, CALLS, PAUSE = 100, 100, 0.75


def get(user_id: str) -> Request:
    return Request(header_block("UserService/GetUser"), grpc_frame(GetUserRequest(user_id=user_id)))


class Interrupted(Sequence[Request]):
    """Requests; when a quarter of them has been sent, something happens."""

    def __init__(self, then: Callable[[], object]) -> None:
        self._then = then

    def __len__(self) -> int:
        return CALLS

    @overload
    def __getitem__(self, index: int) -> Request: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...
    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        if index == CALLS // 4:
            self._then()
        return get("alice")


async def test_calls_during_a_pause_of_the_server_count_in_full(service: Service, stubs: Stubs) -> None:
    """A closed loop with 4 callers would see 4 slow calls; 75 callers come during the pause."""
    await stubs.users.AddUser(AddUserRequest(user_id="alice"))
    resuming = threading.Timer(PAUSE, os.kill, (service.pid, signal.SIGCONT))

    def pause() -> None:
        os.kill(service.pid, signal.SIGSTOP)
        resuming.start()

    latencies = open_loop.run(service.port, Interrupted(pause), RATE)
    resuming.join()
    assert latencies.errors == 0
    assert len(latencies.seconds) == CALLS
    assert latencies.data_bytes > 0
    assert sum(seconds > PAUSE / 4 for seconds in latencies.seconds) > RATE * PAUSE / 2


async def test_calls_that_the_generator_sends_late_count_from_their_schedule(service: Service, stubs: Stubs) -> None:
    await stubs.users.AddUser(AddUserRequest(user_id="alice"))
    latencies = open_loop.run(service.port, Interrupted(lambda: time.sleep(PAUSE)), RATE)
    assert latencies.percentile(90) > open_loop.percentile(latencies.delays, 90) > PAUSE / 2


async def test_answers_without_a_message_count_as_errors(service: Service, stubs: Stubs) -> None:
    await stubs.users.AddUser(AddUserRequest(user_id="alice"))
    requests = [get("alice"), get("nobody"), get("alice"), get("no one")]
    assert open_loop.run(service.port, requests, 1000).errors == 2
    answers = http2.call_each(service.port, requests, connections=2, streams=1)
    assert (answers.calls, answers.errors) == (4, 2)
