"""`--audit-log`: one line for each change of a user or session, without the content of the record."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from harness.connections import OPTIONS, raw
from harness.credentials import bearer, key_id, new_key, private
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1 import session_service_pb2 as sessions
from userservice.v1 import user_service_pb2 as users
from userservice_server.config import ConfigError
from userservice_server.observability import audit_log
from userservice_server.observability.audit_log import AuditLog

CANARY = "canary7f3a"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.long
def test_each_change_is_recorded_once_and_nothing_else(tmp_path: Path) -> None:
    path, keys = tmp_path / "audit.jsonl", tmp_path / "keys.toml"
    key = new_key(keys)
    arguments: list[str | Path] = ["--audit-log", path, "--auth", "keys", "--keys-file", keys, "--workers", "2"]
    with Store() as store, Service(*arguments, redis_url=store.url) as service:
        with grpc.insecure_channel(service.address, OPTIONS) as channel:

            def call(method: str, request: Any, call_id: str, code: str = "OK") -> None:
                service_name = "Session" if "Session" in method else "User"
                path = f"/userservice.v1.{service_name}Service/{method}"
                metadata = [*bearer(key), ("x-request-id", call_id)]
                try:
                    raw(channel).unary_unary(path)(request.SerializeToString(), timeout=10, metadata=metadata)
                except grpc.RpcError as error:
                    assert error.code().name == code, error  # noqa: PT017
                else:
                    assert code == "OK"

            add = users.AddUserRequest(user_id="ada", email=CANARY, first_name=CANARY)
            add.metadata["note"] = CANARY
            started = datetime.now(UTC)
            call("AddUser", add, "call-1")
            call("AddUser", add, "call-2", "ALREADY_EXISTS")
            call("UpdateUser", users.UpdateUserRequest(user_id="ada", last_name=CANARY), "call-3")
            call("UpdateUser", users.UpdateUserRequest(user_id="\n" + CANARY), "call-4", "INVALID_ARGUMENT")
            call("AddSession", sessions.AddSessionRequest(user_id="ada", session_id="s1"), "call-5")
            call("GetUser", users.GetUserRequest(user_id="ada"), "call-6")
            call("DeleteUser", users.DeleteUserRequest(user_id="bob"), "call-7", "NOT_FOUND")
            call("DeleteUser", users.DeleteUserRequest(user_id="ada"), "call-8")
            store.freeze()
            call("AddUser", users.AddUserRequest(user_id="eve"), "call-9", "UNAVAILABLE")
            store.thaw()
        assert service.stop() == 0
    lines = lines_of(path)
    assert [{name: value for name, value in line.items() if name != "time"} for line in lines] == [
        {
            "method": method,
            "outcome": outcome,
            "credential": "key",
            "caller": key_id(key),
            "user_id": user_id,
            **more,
            "request_id": call_id,
        }
        for method, outcome, user_id, more, call_id in [
            ("AddUser", "applied", "ada", {}, "call-1"),
            ("UpdateUser", "applied", "ada", {}, "call-3"),
            ("AddSession", "applied", "ada", {"session_id": "s1"}, "call-5"),
            ("DeleteUser", "applied", "ada", {}, "call-8"),
            ("AddUser", "unknown", "eve", {}, "call-9"),
        ]
    ]
    assert all(started < datetime.fromisoformat(line["time"]) < datetime.now(UTC) for line in lines)
    assert CANARY not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_renamed_file_is_not_changed_and_a_new_file_is_created(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.add({"n": 1})
    until(lambda: lines_of(path))
    path.rename(tmp_path / "audit.1")
    log.add({"n": 2})
    until(lambda: path.exists() and lines_of(path))
    log.close(1)
    assert [line["n"] for line in (*lines_of(tmp_path / "audit.1"), *lines_of(path))] == [1, 2]


def test_lines_are_kept_while_the_file_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    path.unlink()
    path.mkdir()
    log.add({"n": 1})
    until(lambda: caplog.records)
    path.rmdir()
    until(lambda: path.exists() and lines_of(path))
    log.add({"n": 2})
    log.close(1)
    assert [line["n"] for line in lines_of(path)] == [1, 2]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_lines_that_are_too_many_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "_MAX_LINES", 2)
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    path.unlink()
    path.mkdir()
    for number in range(5):
        log.add({"n": number})
    assert log.dropped == 3
    path.rmdir()
    log.close(1)
    assert [line["n"] for line in lines_of(path)] == [0, 1]
    assert log.dropped == 3


def test_a_text_that_is_not_unicode_does_not_end_the_log(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.add({"caller": "\ud800"})
    until(lambda: lines_of(tmp_path / "audit.jsonl"))
    log.add({"caller": "other"})
    log.close(1)
    assert [line["caller"] for line in lines_of(tmp_path / "audit.jsonl")] == ["\ud800", "other"]


def test_dropped_lines_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "_MAX_LINES", 1)
    log = AuditLog(tmp_path / "audit.jsonl")
    while not log.dropped:
        log.add({"n": 1})
    until(lambda: caplog.records)
    log.close(1)
    assert vars(caplog.records[0])["lost_lines"] > 0


def test_adding_a_line_does_not_block(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    started = time.monotonic()
    for number in range(1000):
        log.add({"n": number})
    assert time.monotonic() - started < 1
    log.close(5)
    assert [line["n"] for line in lines_of(tmp_path / "audit.jsonl")] == list(range(1000))


@pytest.mark.parametrize("made", ["a directory", "a named pipe", "a file that others can change", "no folder"])
def test_a_file_that_cannot_be_used_is_rejected(tmp_path: Path, made: str) -> None:
    path = tmp_path / "audit"
    if made == "a directory":
        path.mkdir()
    elif made == "a named pipe":
        os.mkfifo(path)
    elif made == "no folder":
        path = tmp_path / "none" / "audit"
    else:
        private(path, "", 0o622)
    with pytest.raises(ConfigError, match="--audit-log"):
        AuditLog(path)
