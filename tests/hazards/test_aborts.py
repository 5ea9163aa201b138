"""A call is aborted once, because a second abort fails and grpc logs it as a bug of the handler."""

from pathlib import Path

import grpc
import pytest
from harness import sabotaged
from harness.connections import connect_blocking
from harness.failures import failure_of
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1.user_service_pb2 import GetUserRequest


def test_an_error_is_sent_once_and_logged_even_without_an_access_log() -> None:
    with Store() as store, Service("--access-log", "false", redis_url=store.url) as service:
        with connect_blocking(service.address) as stubs, pytest.raises(grpc.RpcError) as raised:
            stubs.users.GetUser(GetUserRequest(user_id="nobody"), timeout=10)
        assert failure_of(raised.value).reason == "USER_NOT_FOUND"
        until(lambda: service.log_lines_with("NOT_FOUND"))
        assert service.stop() == 0
    assert [line["level"] for line in service.log if line["level"] not in {"INFO", "DEBUG"}] == []


def test_an_abort_by_the_handler_is_not_changed() -> None:
    program, environment = [Path(sabotaged.__file__)], {"WHERE": "aborted"}
    with Store() as store, Service(redis_url=store.url, program=program, environment=environment) as service:
        with connect_blocking(service.address) as stubs, pytest.raises(grpc.RpcError) as raised:
            stubs.users.GetUser(GetUserRequest(user_id="ada"), timeout=10)
        assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.DATA_LOSS, "decided")
        assert service.stop() == 0
    assert [line for line in service.log if line["level"] not in {"INFO", "DEBUG"}] == []
