"""`--redis-url-file`: the URL, and the password in it, from a file that only trusted users can read."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.programs import command_line, descendants
from harness.services import Service, clean_environment
from harness.stores import Store

from userservice_server.config import ConfigError
from userservice_server.config.secret_files import read_secret

CANARY = "canary7f3a"


@pytest.fixture(scope="module")
def locked_store() -> Iterator[Store]:
    with Store(port=0, options=["--requirepass", CANARY]) as store:
        yield store


def url_of(store: Store) -> str:
    return f"unix://:{CANARY}@{store.socket}"


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def run(command: str, *arguments: str | Path, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "userservice", command, *arguments],
        capture_output=True,
        text=True,
        env=clean_environment() | environment,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def refusal(path: Path) -> str:
    """Reads a file that must be rejected; returns the line with the reason."""
    with pytest.raises(ConfigError) as raised:
        read_secret(path, "--redis-url-file")
    line = str(raised.value)
    assert line.startswith(f"--redis-url-file {path} ")
    assert CANARY not in line
    assert "\n" not in line
    return line


@pytest.mark.parametrize("content", [f"{CANARY}\n", f"http://:{CANARY}@h/0\n"])
def test_a_file_without_a_url_is_rejected_with_one_line(tmp_path: Path, content: str) -> None:
    code, out, error = run("serve", "--redis-url-file", written(tmp_path / "url", content))
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "must be a URL" in error
    assert CANARY not in error


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.long), "2"])
@pytest.mark.long
def test_the_password_is_in_no_command_line_and_no_environment(
    locked_store: Store, tmp_path: Path, workers: str
) -> None:
    file = written(tmp_path / "url", url_of(locked_store) + "\n", 0o440)
    with Service("--workers", workers, "--redis-url-file", file) as service:
        for pid in (service.pid, *descendants(service.pid)):
            assert CANARY not in command_line(pid)
            assert CANARY.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        assert service.stop() == 0
        assert CANARY not in "\n".join([*service.stderr, *service.stdout])
        assert not any("visible" in line for line in service.stderr)


def test_check_reads_the_file_too_and_links_as_of_kubernetes_are_followed(locked_store: Store, tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    written(tmp_path / "..data" / "url", url_of(locked_store), 0o400)
    (tmp_path / "url").symlink_to("..data/url")
    with Service("--redis-url-file", tmp_path / "url") as service:
        assert service.stop() == 0
    assert run("check", "--redis-url-file", tmp_path / "url")[::2] == (0, "")


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.long)])
@pytest.mark.long
def test_a_password_on_the_command_line_logs_a_warning_and_is_hidden_from_workers(
    locked_store: Store, workers: str
) -> None:
    with Service("--workers", workers, redis_url=url_of(locked_store)) as service:
        assert [pid for pid in descendants(service.pid) if CANARY in command_line(pid)] == []
        assert service.stop() == 0
        [warning] = [line for line in service.log if "visible" in line["message"]]
    assert warning["level"] == "WARNING"
    code, _, error = run("check", "--redis-url", url_of(locked_store))
    assert code == 0
    assert "visible" in error
    assert CANARY not in error


def test_a_url_in_the_environment_logs_no_warning(locked_store: Store) -> None:
    with Service(environment={"USERSERVICE_REDIS_URL": url_of(locked_store)}) as service:
        assert service.stop() == 0
        assert not any("visible" in line for line in service.stderr)


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o602, 0o644, 0o601])
def test_a_file_that_others_can_read_or_write_is_rejected(tmp_path: Path, mode: int) -> None:
    error = refusal(written(tmp_path / "url", f"redis://:{CANARY}@h/0", mode))
    assert f"{mode:04o}" in error


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_a_file_of_another_user_is_rejected(tmp_path: Path) -> None:
    file = written(tmp_path / "url", "redis://h/0")
    os.chown(file, 65534, 65534)
    assert "owned by" in refusal(file)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "exactly one line"),
        ("\n", "exactly one line"),
        (f"redis://:{CANARY}@h/0\nredis://h/1\n", "exactly one line"),
        ("x" * 70000, "larger than"),
    ],
)
def test_a_file_that_does_not_contain_exactly_one_url_is_rejected(tmp_path: Path, content: str, expected: str) -> None:
    assert expected in refusal(written(tmp_path / "url", content))


@pytest.mark.parametrize("made", ["nothing", "a directory", "a named pipe"])
def test_a_path_that_is_not_a_file_is_rejected(tmp_path: Path, made: str) -> None:
    path = tmp_path / "url"
    if made == "a directory":
        path.mkdir(mode=0o700)
    if made == "a named pipe":
        os.mkfifo(path, 0o600)
    refusal(path)


@pytest.mark.long
def test_the_command_line_takes_precedence_and_two_sources_there_are_refused(
    locked_store: Store, tmp_path: Path
) -> None:
    file, other = written(tmp_path / "url", url_of(locked_store)), "redis://127.0.0.1:1/0"
    with Service(redis_url=url_of(locked_store)) as service:  # creates the store, which check reads
        assert service.stop() == 0
    assert run("check", "--redis-url-file", file, USERSERVICE_REDIS_URL=other)[0] == 0
    assert run("check", "--redis-url", url_of(locked_store), USERSERVICE_REDIS_URL_FILE=str(tmp_path / "no"))[0] == 0
    code, _, error = run("check", "--redis-url-file", file, "--redis-url", other)
    assert code == 2
    assert "not both" in error
