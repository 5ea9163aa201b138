"""The start of the service, and the error line if it cannot start."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import grpc
import pytest
from harness.connections import connect_blocking, health
from harness.failures import failure_of
from harness.programs import descendants, wait_until_gone
from harness.services import Service
from harness.stores import Store
from harness.waiting import until

from userservice.v1.user_service_pb2 import AddUserRequest, GetUserRequest
from userservice_server.store.keys import LAYOUT_VERSION

SERVICES = ("", "userservice.v1.UserService", "userservice.v1.SessionService")


@pytest.fixture(scope="module")
def a_store() -> Iterator[Store]:
    with Store(port=0) as store:
        yield store


@pytest.fixture
def taken_port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def assert_refused(*arguments: str | Path, environment: dict[str, str] | None = None, **settings: str | Path) -> str:
    """Starts a service that must not start, and returns its error line."""
    with Service(*arguments, environment=environment, wait=False, **settings) as service:  # type: ignore[arg-type]
        assert service.wait(30) == 2, service.stderr
        assert service.stdout == []
        [line] = service.stderr
    assert line.startswith("userservice: error: ")
    assert len(line) > len("userservice: error: ") + 10
    return line


def test_the_service_prints_its_address_when_it_is_ready(a_store: Store) -> None:
    with Service(redis_url=a_store.url) as service:
        assert [health(service.address, name) for name in SERVICES] == ["SERVING"] * 3
        assert service.stdout == [f"userservice listening on {service.address}"]
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d+", service.address)
        assert service.stop() == 0


def test_settings_come_from_the_environment_too(a_store: Store) -> None:
    environment = {"USERSERVICE_REDIS_URL": a_store.url, "USERSERVICE_KEY_PREFIX": "elsewhere"}
    with Service(environment=environment) as service, connect_blocking(service.address) as stubs:
        stubs.users.AddUser(AddUserRequest(user_id="ada"))
    with a_store.client() as client:
        assert client.hkeys("elsewhere:{0}:user_ids") == [b"ada"]


def test_a_flag_overrides_the_environment(a_store: Store, tmp_path: Path) -> None:
    environment = {"USERSERVICE_LISTEN": "nonsense", "USERSERVICE_DATA_DIR": str(tmp_path / "never")}
    with Service(redis_url=a_store.url, environment=environment) as service:
        assert health(service.address) == "SERVING"
    assert not (tmp_path / "never").exists()


def test_the_installed_command_is_the_same_as_the_module() -> None:
    script = Path(sys.executable).parent / "userservice"
    shown = subprocess.run([script, "serve", "--help"], capture_output=True, text=True, check=True)
    for flag in ("--listen", "--redis-url", "--data-dir", "--workers", "--grace"):
        assert flag in shown.stdout
        assert f"USERSERVICE_{flag[2:].replace('-', '_').upper()}" in shown.stdout


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_an_error(a_store: Store, taken_port: int, workers: str) -> None:
    line = assert_refused("--workers", workers, redis_url=a_store.url, listen=f"127.0.0.1:{taken_port}")
    assert str(taken_port) in line


@pytest.mark.parametrize(
    ("first", "second"), [("1", "1"), *(pytest.param("2", second, marks=pytest.mark.long) for second in "12")]
)
def test_two_services_never_share_a_port(a_store: Store, first: str, second: str) -> None:
    """By default, grpc servers share a port, and each of them gets some of the calls."""
    with Service("--workers", first, redis_url=a_store.url) as service:
        line = assert_refused("--workers", second, redis_url=a_store.url, listen=service.address)
        assert service.address in line
        assert health(service.address) == "SERVING"


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1", "127.0.0.1:65536", ":0"])
def test_an_invalid_address_is_rejected(listen: str) -> None:
    assert "--listen" in assert_refused(redis_url="redis://127.0.0.1:1/0", listen=listen)


@pytest.mark.parametrize(
    "url",
    ["nonsense", "http://127.0.0.1/0", "redis://:canary@127.0.0.1:port/0", "redis://:canary@127.0.0.1:1/0?retry=3"],
)
def test_an_invalid_url_is_rejected_and_not_printed(url: str) -> None:
    line = assert_refused(redis_url=url)
    assert "--redis-url" in line
    assert "canary" not in line


@pytest.mark.long
def test_an_unreachable_redis_is_an_error() -> None:
    line = assert_refused(redis_url="redis://:canary@127.0.0.1:1/0")
    assert "--redis-url" in line
    assert "canary" not in line


@pytest.mark.parametrize("account", [":canary@", "canary:canary@", ""])
def test_a_wrong_password_is_an_error_and_not_printed(account: str) -> None:
    with Store(port=0, options=["--requirepass", "right"]) as store:
        line = assert_refused(redis_url=f"unix://{account}{store.socket}")
        with store.client(password="right") as client:
            tries = sum(entry["count"] for entry in client.acl_log())
    assert "rejected the user name or password" in line
    assert "canary" not in line
    assert tries <= 1, "waiting makes no password right"


@pytest.mark.parametrize("path", ["users", "0x", "0/1"])
def test_a_path_that_is_not_a_database_number_is_rejected(path: str) -> None:
    """redis-py would use database 0."""
    line = assert_refused(redis_url=f"redis://:canary@127.0.0.1:1/{path}")
    assert "a database number" in line
    assert "canary" not in line


def test_a_missing_database_is_rejected(a_store: Store) -> None:
    line = assert_refused(redis_url=f"unix://{a_store.socket}?db=99")
    assert "no database with this number" in line


def test_a_server_that_is_not_redis_is_rejected() -> None:
    def answer() -> None:
        with listener.accept()[0] as connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            while connection.recv(4096):  # to its end: what is closed unread is reset
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = Thread(target=answer)
        answering.start()
        line = assert_refused(redis_url=f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        answering.join()
    assert "does not speak the Redis protocol" in line


def test_foreign_keys_under_the_prefix_are_rejected(a_store: Store) -> None:
    with a_store.client() as client:
        client.set("theirs:layout", "x")
        assert "other data uses the key prefix" in assert_refused("--key-prefix", "theirs", redis_url=a_store.url)
        assert client.get("theirs:layout") == b"x"


def test_a_new_store_is_logged_to_reveal_a_mistyped_prefix(a_store: Store) -> None:
    for expected in (1, 0):
        with Service("--key-prefix", "mistyped", redis_url=a_store.url) as service:
            assert service.stop() == 0
        assert sum(line.get("layout_key") == "mistyped:layout" for line in service.log) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_the_start_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    with Service(data_dir=tmp_path, wait=False) as service:
        [store] = until(lambda: descendants(service.pid), every=0.001)
        service.send(number)
        assert service.wait(30) == 0
        assert [line for line in service.stderr if not line.startswith("{")] == []
    wait_until_gone(store)
    assert not (tmp_path / "store.sock").exists()


def test_a_data_directory_that_a_url_cannot_contain_is_rejected(tmp_path: Path) -> None:
    assert "UTF-8" in assert_refused(data_dir=Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")))


def test_the_error_names_an_unusable_file_in_the_data_directory(tmp_path: Path) -> None:
    (tmp_path / "store.log").mkdir()
    assert "store.log" in assert_refused(data_dir=tmp_path)


def test_a_store_of_another_layout_is_rejected(a_store: Store) -> None:
    with a_store.client() as client:
        client.hset("future:layout", mapping={"version": 99, "partitions": 1})
    assert "99" in assert_refused("--key-prefix", "future", redis_url=a_store.url)
    with a_store.client() as client:
        assert client.hgetall("future:layout") == {b"version": b"99", b"partitions": b"1"}


def test_the_layout_key_is_written_in_one_command() -> None:
    """A power cut can happen between two commands."""
    with Store() as store, Service(redis_url=store.url), store.client() as client:
        expected = {b"version", b"partitions", b"store_id", b"lowest_id", b"email_index", b"email_unicode"}
        assert set(client.hgetall("userservice:layout")) == expected
        assert client.info("commandstats")["cmdstat_hset"]["calls"] == 2  # the other one writes the session count


def test_an_incomplete_layout_key_is_completed(a_store: Store) -> None:
    with a_store.client() as client:
        client.hset("half:layout", "version", LAYOUT_VERSION)
        with Service("--key-prefix", "half", redis_url=a_store.url) as service:
            assert health(service.address) == "SERVING"
        assert set(client.hgetall("half:layout")) >= {b"version", b"partitions", b"store_id"}


@pytest.mark.parametrize("made", ["a file", "below a file"])
def test_an_impossible_data_directory_is_rejected(tmp_path: Path, made: str) -> None:
    file = tmp_path / "file"
    file.write_text("no directory")
    directory = file if made == "a file" else file / "below"
    assert str(directory) in assert_refused(data_dir=directory)
    assert file.read_text() == "no directory"


def test_a_read_only_data_directory_is_rejected() -> None:
    # Nobody may make a directory there, not even root, for whom permissions count little.
    assert "/proc/userservice" in assert_refused(data_dir=Path("/proc/userservice"))


@pytest.mark.parametrize("arguments", [("--workers", "0"), ("--grace", "soon"), ("--no-such-flag",)])
def test_an_invalid_flag_is_rejected(arguments: tuple[str, ...]) -> None:
    assert_refused(*arguments, redis_url="redis://127.0.0.1:1/0")


def test_a_second_service_on_the_same_data_directory_does_not_start(tmp_path: Path) -> None:
    with Service(data_dir=tmp_path) as first, connect_blocking(first.address) as stubs:
        stubs.users.AddUser(AddUserRequest(user_id="ada"))
        line = assert_refused(data_dir=tmp_path)
        assert str(tmp_path) in line
        assert stubs.users.GetUser(GetUserRequest(user_id="ada")).user.user_id == "ada"
        assert first.stop() == 0


def test_the_embedded_store_is_private(tmp_path: Path) -> None:
    with Service(data_dir=tmp_path) as service:
        sockets = _unix_sockets_of(service.store_pid)
        assert len(sockets) == 1
        for path in sockets:
            assert path.parent.stat().st_mode & 0o077 == 0, "others may enter the directory of the store's socket"
        assert _listening_ports_of([service.store_pid]) == set()
        assert _listening_ports_of([service.pid, *descendants(service.pid)]) == {service.port}


def _inodes_of(pids: list[int]) -> set[str]:
    links = [str(link.readlink()) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()]
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def _unix_sockets_of(pid: int) -> set[Path]:
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    inodes = _inodes_of([pid])
    return {Path(row[7]) for row in rows if len(row) == 8 and row[6] in inodes and row[3] == "00010000"}


def _listening_ports_of(pids: list[int]) -> set[int]:
    inodes, ports = _inodes_of(pids), set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            row = line.split()
            if row[3] == "0A" and row[9] in inodes:
                ports.add(int(row[1].rpartition(":")[2], 16))
    return ports


def test_the_service_waits_for_a_store_that_is_loading() -> None:
    with Store(append_only=True) as store:
        store.restart_slowly()
        until(store.is_loading)
        with Service(redis_url=store.url) as service:
            assert re.search("(?i)ready to accept connections", "\n".join(store.program.stdout)), "it served too early"
            assert health(service.address) == "SERVING"
            assert service.stop() == 0


def test_an_absent_user_is_not_found_in_a_new_store(tmp_path: Path) -> None:
    with Service(data_dir=tmp_path / "not" / "there" / "yet") as service, connect_blocking(service.address) as stubs:
        with pytest.raises(grpc.RpcError) as raised:
            stubs.users.GetUser(GetUserRequest(user_id="ada"))
        assert failure_of(raised.value).reason == "USER_NOT_FOUND"
        assert service.stop() == 0
