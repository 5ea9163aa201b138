"""The command starts with closed or full standard input, output and error."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.connections import health
from harness.ports import free_port
from harness.services import clean_environment
from harness.stores import Store
from harness.waiting import until

PROGRAM = f"{sys.executable} -m userservice"


@pytest.fixture(scope="module")
def a_store() -> Iterator[Store]:
    with Store(port=0) as store:
        yield store


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of bash; returns the exit code of the first command of its pipeline."""
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirection", "why"), [(">&-", "it is closed"), (">/dev/full", "No space left on device"), ("| true", "")]
)
@pytest.mark.parametrize("command", ["serve", "check", "--help"])
def test_output_that_cannot_be_written_is_an_error_of_one_line(
    a_store: Store, command: str, redirection: str, why: str
) -> None:
    """If the reader has closed the pipe, only `serve` prints an error, because its caller waits for the address."""
    arguments = {
        "serve": f"serve --listen 127.0.0.1:0 --log-level error --redis-url '{a_store.url}'",
        "check": f"check --redis-url '{a_store.url}'",
        "--help": "--help",
    }
    done = shell(f"{PROGRAM} {arguments[command]} {redirection}")
    if redirection == "| true" and command == "--help" and not done.returncode:
        return  # it was written before the reader had left
    assert done.returncode == 2
    expected = [f"userservice: error: cannot write to standard output: {why}"] if why else []
    assert [line for line in done.stderr.splitlines() if not line.startswith("{")] == expected


@pytest.mark.parametrize("closed", [0, 2])
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_files_and_sockets_never_use_a_closed_standard_descriptor(tmp_path: Path, closed: int, workers: str) -> None:
    address, output = f"127.0.0.1:{free_port()}", tmp_path / "output"
    redirection = {0: "<&- 2>/dev/null", 2: "2>&-"}[closed]
    line = f"{PROGRAM} serve --listen {address} --workers {workers} --data-dir {tmp_path}/data >{output} {redirection}"
    with subprocess.Popen(["bash", "-c", f"exec {line}"], env=clean_environment(), start_new_session=True) as service:
        try:
            until(lambda: output.exists() and output.read_text() == f"userservice listening on {address}\n", within=60)
            assert health(address) == "SERVING"
            assert (Path("/proc") / str(service.pid) / "fd" / str(closed)).readlink() == Path(os.devnull)
            service.send_signal(signal.SIGTERM)
            assert service.wait(30) == 0
        finally:
            service.kill()


def test_a_signal_during_the_imports_is_an_orderly_stop(a_store: Store) -> None:
    """Before the handlers were installed early, Ctrl-C printed a traceback, and SIGTERM gave another exit code."""
    import_hook = "import userservice.__main__ as m, signal, os; r = m.import_module\n"
    import_hook += "def slowly(name): os.kill(os.getpid(), signal.SIGINT); return r(name)\n"
    import_hook += "m.import_module = slowly; m.main()"
    command = [sys.executable, "-c", import_hook, "serve", "--listen", "127.0.0.1:0", "--redis-url", a_store.url]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 30
