"""The client's commands as processes: signals, kills, full disks, closed streams, and what is not installed."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from harness.commands import PROGRAM, command
from harness.population import fill
from harness.proxies import Proxy
from harness.services import Service, clean_environment
from harness.stores import Store
from harness.waiting import until

COUNT = 2000
NAMES = [f"u{number:04}" for number in range(COUNT)]


@pytest.fixture(scope="module")
def a_service() -> Iterator[Service]:
    with Store() as store, Service(redis_url=store.url) as service:
        fill(store, NAMES, [4096] * COUNT)
        yield service


@pytest.mark.parametrize(
    "options", [(), pytest.param(("--parallel", "3"), marks=pytest.mark.long)], ids=["serial", "parallel"]
)
def test_an_export_that_is_killed_continues_to_the_same_bytes(
    a_service: Service, tmp_path: Path, options: Sequence[str]
) -> None:
    whole, file = tmp_path / "whole.jsonl", tmp_path / "users.jsonl"
    assert command("users", "export", whole, "--address", a_service.address).code == 0
    last: list[bytes] = []

    def recorded() -> list[bytes]:
        return [path.read_bytes() for path in (*tmp_path.glob("*.cursor"), *sorted(tmp_path.glob("*/*.cursor")))]

    def has_moved() -> bool:
        return recorded() != last

    for number in (signal.SIGKILL, signal.SIGTERM):
        with Proxy(a_service.port, delay=0.08) as slow:
            line = [*PROGRAM, "users", "export", str(file), "--resume", *options, "--address", slow.address]
            with subprocess.Popen(line, env=clean_environment(), stderr=subprocess.DEVNULL) as process:
                until(has_moved, within=30)
                process.send_signal(number)
                assert process.wait(10) == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 130}[number]
        last = recorded()
    assert 0 < sum(json.loads(content)["users"] for content in last) < COUNT
    done = command("users", "export", file, "--resume", *options, "--address", a_service.address)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{file}: {COUNT} users, sha256 ")
    assert file.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["users.jsonl", "whole.jsonl"]


@pytest.mark.long
def test_a_full_disk_is_one_line_and_the_export_continues(a_service: Service, tmp_path: Path) -> None:
    """The test limits the size of files instead of filling a disk."""
    file = tmp_path / "users.csv"
    limited = ["bash", "-c", 'ulimit -f 5000 && exec "$@"', "limited", *PROGRAM]
    failed = command("users", "export", file, "--address", a_service.address, program=limited)
    assert (failed.code, failed.out) == (1, "")
    assert failed.err == (
        f"userservice: error: cannot write {file}.part: File too large; free some space and continue with --resume\n"
    )
    assert not file.exists()
    done = command("users", "export", file, "--resume", "--address", a_service.address)
    assert done.code == 0
    assert file.read_bytes().count(b"\r\n") == COUNT + 1


@pytest.mark.long
def test_output_that_nobody_reads_ends_the_command(a_service: Service) -> None:
    listing = f"{' '.join(PROGRAM)} users list --limit 300 -o jsonl --address {a_service.address}"

    def shell(line: str) -> subprocess.CompletedProcess[str]:
        arguments = ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"]
        return subprocess.run(
            arguments, capture_output=True, text=True, env=clean_environment(), timeout=60, check=False
        )

    first = shell(f"{listing} | head -1")
    assert (first.returncode, first.stderr, len(first.stdout.splitlines())) == (1, "", 1)
    for redirection, why in ((">/dev/full", "No space left on device"), (">&-", "it is closed")):
        done = shell(f"{listing} {redirection}")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"userservice: error: cannot write to standard output: {why}\n"


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Runs a command on a terminal; returns its exit code and what it printed."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    environment = {**clean_environment(), "TERM": "xterm"}
    shown = bytearray()
    with subprocess.Popen([*PROGRAM, *arguments], env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:  # the terminal is closed
            pass
    os.close(ours)
    return process.returncode, shown.decode()


@pytest.mark.long
def test_a_terminal_shows_progress_and_bold_text_and_a_pipe_does_not(
    a_service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tqdm")
    code, shown = on_a_terminal("users", "export", str(tmp_path / "a.csv"), "--address", a_service.address)
    assert code == 0
    assert "2.00k/2.00k" in shown
    listing = ["users", "list", "--limit", "1", "--address", a_service.address]
    shown = on_a_terminal(*listing)[1]
    assert "\x1b[1mUSER_ID" in shown
    assert "more users follow" in shown
    command("users", "add", "odd", "--first-name", "\u202e\x9b2J", "--address", a_service.address)
    shown = on_a_terminal("users", "get", "odd", "-o", "jsonl", "--address", a_service.address)[1]
    assert '"first_name": "\\u202e\\u009b2J"' in shown, "stored text cannot control the terminal"
    command("users", "delete", "odd", "--address", a_service.address)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in on_a_terminal(*listing)[1]
    piped = command("users", "export", tmp_path / "b.csv", "--address", a_service.address)
    assert piped.err == ""


@pytest.mark.parametrize(
    ("missing", "arguments", "printed"),
    [
        (
            "click",
            ["users", "list"],
            "userservice: the command line is not installed; pip install 'userservice[cli]'\n",
        ),
        ("click", ["serve"], "userservice: the server is not installed; pip install 'userservice[server]'\n"),
        (
            "pyarrow",
            ["users", "export", "users.parquet"],
            "userservice: error: Parquet needs pyarrow; pip install 'userservice[parquet]'\n",
        ),
    ],
)
def test_a_missing_extra_is_named(missing: str, arguments: list[str], printed: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from userservice.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", printed)
    assert list(tmp_path.iterdir()) == []


def test_the_client_alone_prints_its_commands() -> None:
    code = "import sys; sys.modules['redis'] = None; from userservice.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert [word for word in ("users", "sessions", "profile", "completion", "health") if word not in done.stdout] == []


def test_ctrl_c_ends_a_command_that_waits(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        line = [*PROGRAM, "users", "export", str(tmp_path / "a"), "--address", address, "--timeout", "60"]
        with subprocess.Popen(line, env=clean_environment(), stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()  # the call has begun
            with connection:
                process.send_signal(signal.SIGINT)
                _, printed = process.communicate(timeout=30)
    assert (process.returncode, printed) == (130, "")
    assert list(tmp_path.iterdir()) == []
