"""Only the user of the service can open its files, and other users cannot replace them."""

import os
import shutil
import signal
import socket
import stat
from pathlib import Path

import pytest
from harness.programs import descendants, wait_until_gone
from harness.services import Service
from harness.waiting import until

from userservice_server.config import ConfigError
from userservice_server.embedded.store import EmbeddedStore

ROOT = os.geteuid() == 0
NOBODY = 65534


def refusal(directory: Path) -> str:
    """Starts an embedded store that must not start; returns the line with the reason."""
    with pytest.raises(ConfigError) as raised, EmbeddedStore(directory, "always"):
        pass
    line = str(raised.value)
    assert "\n" not in line
    return line


def modes(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode)
        for path in (directory, *directory.rglob("*"))
        if not path.is_socket()
    }


def assert_private(directory: Path) -> None:
    found = modes(directory)
    assert {"store.log", "userservice.lock", "appendonlydir"} <= set(found)
    assert not {name: oct(mode) for name, mode in found.items() if mode & 0o077}


def test_files_of_the_embedded_store_are_private_with_any_umask(tmp_path: Path) -> None:
    directory = tmp_path / "parent" / "data"
    before = os.umask(0)
    try:
        with Service(data_dir=directory) as service:
            assert stat.S_IMODE((directory / "store.sock").stat().st_mode) & 0o077 == 0
            assert service.stop() == 0
    finally:
        os.umask(before)
    assert_private(directory)
    assert stat.S_IMODE(directory.parent.stat().st_mode) & 0o077 == 0


def test_permissions_of_files_that_others_can_open_are_narrowed(tmp_path: Path) -> None:
    with Service(data_dir=tmp_path) as service:
        assert service.stop() == 0
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o777)
    with Service(data_dir=tmp_path) as service:
        assert service.stop() == 0
        narrowed = {line["path"] for line in service.log if line["message"] == "permissions restricted"}
    assert_private(tmp_path)
    assert {str(tmp_path), str(tmp_path / "appendonlydir"), str(tmp_path / "userservice.lock")} <= narrowed


@pytest.mark.parametrize("name", ["", "store.log", "userservice.lock", "appendonlydir", "appendonlydir/file"])
@pytest.mark.skipif(not ROOT, reason="only root can give files to other users")
def test_files_of_another_owner_are_rejected(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("appendonlydir"):
        (tmp_path / "appendonlydir").mkdir(mode=0o700)
    if name and not path.exists():
        path.touch()
    os.chown(path, NOBODY, NOBODY)
    assert f"{path} must be owned by the user of the service" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["store.log", "userservice.lock", "appendonlydir/link"])
@pytest.mark.parametrize("target", ["a file", "nothing"])
def test_symbolic_links_in_the_data_directory_are_not_followed(tmp_path: Path, name: str, target: str) -> None:
    directory, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    (directory / name).parent.mkdir(parents=True)
    if target == "a file":
        elsewhere.write_text("precious")
    (directory / name).symlink_to(elsewhere)
    assert "symbolic link" in refusal(directory)
    assert (elsewhere.read_text() == "precious") if target == "a file" else not elsewhere.exists()


@pytest.mark.parametrize("name", ["store.log", "userservice.lock", "appendonlydir/fifo"])
def test_named_pipes_in_the_data_directory_are_rejected_without_blocking(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    assert name.rpartition("/")[2] in refusal(tmp_path)


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """A directory for TMPDIR whose path is short enough for sockets in it."""
    directory = Path(f"/tmp/usertest-{os.getpid()}")  # noqa: S108
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(directory)
    return directory


@pytest.mark.long
def test_socket_directories_of_killed_services_are_removed_at_the_next_start(tmp_path: Path, temporary: Path) -> None:
    long = tmp_path / ("x" * 100)
    environment = {"TMPDIR": str(temporary)}
    try:
        with Service(data_dir=long, environment=environment) as killed:
            store = killed.store_pid
            os.kill(store, signal.SIGKILL)  # first, so that nothing cleans up
            os.kill(killed.pid, signal.SIGKILL)
            killed.wait()
            wait_until_gone(store)
        [left] = temporary.glob("userservice-*")
        others = temporary / "userservice-contents"
        others.mkdir()
        (others / "notes").touch()
        with Service(data_dir=long, environment=environment) as running:
            assert not left.exists()
            [live] = set(temporary.glob("userservice-*")) - {others}
            with Service(data_dir=tmp_path / "other", environment=environment) as second:
                assert live.exists(), "in use"
                assert second.stop() == 0
            assert running.stop() == 0
        assert list(temporary.glob("userservice-*")) == [others]
        assert (others / "notes").exists()
    finally:
        shutil.rmtree(temporary)


def test_a_socket_directory_of_an_earlier_version_that_is_in_use_is_kept(tmp_path: Path, temporary: Path) -> None:
    used, unused = temporary / "userservice-abcdefgh", temporary / "userservice-hgfedcba"
    try:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as closed:
            for directory, server in ((used, listener), (unused, closed)):
                directory.mkdir(mode=0o700)
                server.bind(str(directory / "store.sock"))
                server.listen()
            closed.close()
            with Service(data_dir=tmp_path, environment={"TMPDIR": str(temporary)}) as service:
                assert service.stop() == 0
            assert used.exists()
            assert not unused.exists()
    finally:
        shutil.rmtree(temporary)


def test_the_embedded_store_inherits_no_settings_and_no_secrets(tmp_path: Path) -> None:
    """Valkey overwrites its environment with its process title, so the test reads the environment before that."""
    environment = {"USERSERVICE_GRACE": "1", "A_SECRET": "canary"}
    with Service(data_dir=tmp_path, environment=environment, wait=False) as service:

        def inherited() -> bytes:
            processes = [Path("/proc") / str(pid) for pid in descendants(service.pid)]
            # Between fork and exec, a child has the program and the environment of its parent.
            stores = [process for process in processes if "valkey" in (process / "exe").readlink().name]
            found = [process.joinpath("environ").read_bytes() for process in stores]
            return b"".join(environ for environ in found if b"\0" in environ)

        seen = until(inherited, within=60, every=0.001)
        service.wait_for("stdout", "listening", within=60)
        assert service.stop() == 0
    # The environment itself must not be shown if the test fails.
    assert [text for text in (b"PATH=", b"canary", b"USERSERVICE_") if text in seen] == [b"PATH="]
