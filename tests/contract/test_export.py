"""``userservice users export``: content, interruptions at every place, and wrong files, with a real service."""

import csv
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.commands import CommandLine, without_settings
from harness.population import fill
from harness.services import Service
from harness.stores import Store

from userservice import SyncSessionManager, SyncUserManager
from userservice.cli import export_file, exports
from userservice.cli.export_file import ExportFile

COUNT = 160
NAMES = [f"u{number:04}" for number in range(COUNT)]
ODD: dict[str, Any] = {
    "user_id": 'odd, "quoted" 漢',
    "email": "=1+1",
    "first_name": "two\nlines\r\n",
    "last_name": "\x1b\x00\u0085",
    "metadata": {"a": [1, 1.5, -0.0, 2**53, 1e-300, None, True, {}], "": {"b": '\u2028\\"'}, "z": None, "É": False},
}


@pytest.fixture(scope="module")
def a_store() -> Iterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture(scope="module")
def a_service(a_store: Store) -> Iterator[Service]:
    with Service(redis_url=a_store.url) as service:
        # 32 KiB each: a chunk has at most 31 users.
        fill(a_store, NAMES, [32768] * COUNT, email="x@example.com")
        with SyncUserManager(service.address) as users, SyncSessionManager(service.address) as sessions:
            users.add(ODD)
            for session_id in ("one", "two"):
                sessions.add(user_id=NAMES[7], session_id=session_id, metadata={"n": 1})
        yield service


@pytest.fixture
def cli(
    a_service: Service, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> CommandLine:
    without_settings(monkeypatch, tmp_path)
    return CommandLine(capfd, a_service.address)


def stored(service: Service) -> list[dict[str, Any]]:
    with SyncUserManager(service.address) as users:
        return [user.to_dict(mode="json") for chunk in users.list_chunked(1000) for user in chunk]


def from_csv(content: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    return [
        {name: json.loads(value) if name in ("metadata", "id", "sessions") else value for name, value in row.items()}
        for row in rows
    ]


def from_json_lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.decode().split("\n")[:-1]]


def from_parquet(content: bytes) -> list[dict[str, Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(content)).to_pylist()
    for row in rows:
        row["metadata"] = json.loads(row["metadata"])
        for name in ("created_at", "updated_at"):
            row[name] = row[name].isoformat(timespec="microseconds").replace("+00:00", "Z")
        if "sessions" in row:
            row["sessions"] = json.loads(row["sessions"])
    return rows


READERS: dict[str, Callable[[bytes], list[dict[str, Any]]]] = {
    "jsonl": from_json_lines,
    "csv": from_csv,
    "parquet": from_parquet,
}


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("sessions", [False, True])
def test_a_file_contains_every_field_of_every_user(
    cli: CommandLine, a_service: Service, tmp_path: Path, suffix: str, *, sessions: bool
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    file = tmp_path / f"users.{suffix}"
    done = cli("users", "export", file, *(["--sessions"] if sessions else []))
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert (done.code, done.out, done.err) == (0, f"{file}: {COUNT + 1} users, sha256 {digest}\n", "")
    rows = READERS[suffix](content)
    if sessions:
        of_users = [row.pop("sessions") for row in rows]
        assert [[session["session_id"] for session in of_user] for of_user in of_users if of_user] == [["one", "two"]]
        assert [session["session_id"] for session in of_users[7]] == ["one", "two"]
        assert of_users[7][0]["metadata"] == {"n": 1}
    assert rows == stored(a_service)
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "already exists" in cli.error(2, "users", "export", file)
    assert "already exists" in cli.error(2, "users", "export", file, "--resume")
    if not sessions and suffix != "parquet":
        assert cli("users", "export", "-", "-o", suffix).out.encode() == content


class Interruption:
    """Interrupts an export with Ctrl-C in the write of a chunk, before or after its effect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, at: int, after: bool) -> None:
        write, writes = ExportFile.write, iter(range(1000))

        def interrupted(file: ExportFile, data: bytes, **position: Any) -> None:
            is_now = next(writes) == at
            if is_now and not after:
                file._file.write(data[: len(data) // 2])  # a part of the chunk is written
                raise KeyboardInterrupt
            write(file, data, **position)
            if is_now:
                raise KeyboardInterrupt

        monkeypatch.setattr(ExportFile, "write", interrupted)


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_export_continues_to_the_same_file(
    cli: CommandLine, tmp_path: Path, suffix: str, *, after: bool
) -> None:
    """The test interrupts the export in each chunk: in the middle of its write, or after its write."""
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    whole, file = tmp_path / f"whole.{suffix}", tmp_path / f"users.{suffix}"
    cli("users", "export", whole)
    runs = 0
    at = 1 if after else 2  # the first write is that of the header
    while True:
        with pytest.MonkeyPatch.context() as patch:
            Interruption(patch, at=at, after=after)
            done = cli("users", "export", file, "--resume")
        if done.code == 0:
            break
        assert (done.code, done.out) == (130, "")
        assert re.fullmatch(r"\d+ users are in \S+; continue with --resume\n", done.err)
        assert "--resume" in cli.error(2, "users", "export", file)
        runs, at = runs + 1, 0 if after else 1
    assert runs > 3
    assert done.out == f"{file}: {COUNT + 1} users, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}\n"
    assert READERS[suffix](file.read_bytes()) == READERS[suffix](whole.read_bytes())
    if suffix != "parquet":
        assert file.read_bytes() == whole.read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([file.name, whole.name])


@pytest.mark.parametrize(
    ("suffix", "partitions"),
    [
        ("jsonl", 16),
        ("csv", 1),
        *(pytest.param(*other, marks=pytest.mark.long) for other in [("csv", 16), ("parquet", 16), ("parquet", 1)]),
    ],
)
def test_a_parallel_export_depends_neither_on_the_number_of_streams_nor_on_interruptions(
    a_store: Store, cli: CommandLine, tmp_path: Path, suffix: str, partitions: int
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    prefix = f"p{partitions}-{suffix}"
    with (
        Service("--key-prefix", prefix, "--partitions", str(partitions), redis_url=a_store.url) as service,
        SyncUserManager(service.address) as users,
    ):
        for name in NAMES:
            users.add(user_id=name, metadata={"k": "x" * 4096})
        in_order = [user.to_dict(mode="json") for chunk in users.list_chunked(1000) for user in chunk]

        def export(file: Path, *options: str) -> int:
            return cli("users", "export", file, *options, "--address", service.address, connect=False).code

        whole, serial, file = (tmp_path / f"{name}.{suffix}" for name in ("whole", "serial", "users"))
        assert (export(whole, "--parallel", "64"), export(serial)) == (0, 0)
        rows = READERS[suffix](whole.read_bytes())
        assert sorted(rows, key=lambda row: int(row["id"])) == in_order == READERS[suffix](serial.read_bytes())
        assert (rows == in_order) is (partitions == 1)
        for number, parallel in enumerate(("3", "1", "5")):
            with pytest.MonkeyPatch.context() as patch:
                Interruption(patch, at=3, after=bool(number % 2))
                assert export(file, "--resume", "--parallel", parallel) == 130
        assert "add --parallel" in cli.error(2, "users", "export", file, "--resume")
        assert "--resume" in cli.error(2, "users", "export", file, "--parallel", "2")
        assert "same options" in cli.error(2, "users", "export", file, "--resume", "--parallel", "2", "--sessions")
        assert export(file, "--resume", "--parallel", "2") == 0
    if suffix == "parquet":
        assert READERS[suffix](file.read_bytes()) == rows
    else:
        assert file.read_bytes() == whole.read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted([whole, serial, file])


def test_parallel_has_limits_and_does_not_continue_another_export(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "users.jsonl"
    for number in ("0", "65", "x"):
        assert "--parallel" in cli.error(2, "users", "export", file, "--parallel", number)
    assert "a file" in cli.error(2, "users", "export", "-", "--parallel", "2")
    interrupt(cli, file)
    assert "leave it out" in cli.error(2, "users", "export", file, "--resume", "--parallel", "2")
    interrupt(cli, file, "--overwrite", "--parallel", "2")
    assert stat.S_IMODE((tmp_path / "users.jsonl.parts").stat().st_mode) == 0o700
    assert cli("users", "export", file, "--overwrite").code == 0
    assert list(tmp_path.iterdir()) == [file]
    options = ["--address", "127.0.0.1:1", "--timeout", "0.2", "--parallel", "2"]
    assert cli("users", "export", tmp_path / "none.csv", *options, connect=False).code == 5
    assert list(tmp_path.iterdir()) == [file]


def interrupt(cli: CommandLine, file: Path, *options: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Interruption(patch, at=3, after=True)
        assert cli("users", "export", file, *options).code == 130


def test_an_export_that_cannot_be_continued_is_one_error_line(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "users.jsonl"
    part, cursor = tmp_path / "users.jsonl.part", tmp_path / "users.jsonl.cursor"
    interrupt(cli, file)
    position, content = cursor.read_text(), part.read_bytes()
    assert stat.S_IMODE(part.stat().st_mode) == 0o600
    assert "without sessions" in cli.error(2, "users", "export", file, "--resume", "--sessions")
    assert "jsonl" in cli.error(2, "users", "export", file, "--resume", "-o", "csv")
    assert "another --filter" in cli.error(2, "users", "export", file, "--resume", "--filter", "email = 'x'")
    assert "exclude" in cli.error(2, "users", "export", file, "--resume", "--overwrite")
    for wrong in ("", "{}", "[]", position.replace('"version": 1', '"version": 2'), position.replace("users", "u")):
        cursor.write_text(wrong)
        assert "not a cursor" in cli.error(2, "users", "export", file, "--resume")
    cursor.write_text(position)
    for wrong_content in (content[:-100_000], b"x" + content[1:]):
        part.write_bytes(wrong_content)
        assert "was changed" in cli.error(2, "users", "export", file, "--resume")
    part.write_bytes(content + b"rest of a chunk")
    assert cli("users", "export", file, "--resume").code == 0
    assert len(from_json_lines(file.read_bytes())) == COUNT + 1


def test_an_export_with_a_filter_contains_the_users_that_match(cli: CommandLine, tmp_path: Path) -> None:
    file, user_filter = tmp_path / "users.jsonl", tmp_path / "filter"
    user_filter.write_text("email = 'x@example.*'")
    interrupt(cli, file, "--filter", f"@{user_filter}")
    assert "x@example" not in (tmp_path / "users.jsonl.cursor").read_text(), "personal data"
    assert "another --filter" in cli.error(2, "users", "export", file, "--resume")
    assert cli("users", "export", file, "--resume", "--filter", "email = 'x@example.*'").code == 0
    assert [row["user_id"] for row in from_json_lines(file.read_bytes())] == NAMES
    parallel, options = tmp_path / "parallel.jsonl", ("--parallel", "2", "--filter", "email = 'x@example.*'")
    interrupt(cli, parallel, *options)
    error = cli.error(2, "users", "export", parallel, "--resume", *options[:2])
    assert f"{parallel}.parts was written with another --filter" in error
    assert cli("users", "export", parallel, "--resume", *options).code == 0
    assert parallel.read_bytes() == file.read_bytes()
    assert cli("users", "export", "-", "--filter", "first_name : 'two'", "-o", "jsonl").lines()[0]["email"] == "=1+1"


def test_two_exports_never_write_one_file(cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "users.csv"
    errors: list[str] = []
    write = ExportFile.write

    def write_beside_another(self: ExportFile, data: bytes, **position: Any) -> None:
        write(self, data, **position)
        if not errors:
            errors.append("")
            errors.append(cli.error(2, "users", "export", file, "--overwrite"))

    monkeypatch.setattr(ExportFile, "write", write_beside_another)
    assert cli("users", "export", file).code == 0
    assert "another export is writing" in errors[1]
    assert len(from_csv(file.read_bytes())) == COUNT + 1


def test_a_failed_export_leaves_nothing_if_there_is_nothing_to_continue(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    options = ["--address", "127.0.0.1:1", "--timeout", "0.2"]
    assert cli("users", "export", file, *options, connect=False).code == 5
    assert list(tmp_path.iterdir()) == []
    assert "No such file" in cli.error(1, "users", "export", tmp_path / "nowhere" / "users.csv")
    assert "a file" in cli.error(2, "users", "export", "-", "--resume")
    assert "a file" in cli.error(2, "users", "export", "-", "-o", "parquet")


def test_positions_are_flushed_to_disk_before_they_are_recorded(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not leave a cursor that is ahead of the data."""
    file = tmp_path / "users.jsonl"
    part = tmp_path / "users.jsonl.part"
    steps: list[tuple[str, int]] = []
    fsync, replace = os.fsync, Path.replace

    def flushed(descriptor: int) -> None:
        fsync(descriptor)
        if os.fstat(descriptor).st_ino == (part if part.exists() else file).stat().st_ino:
            steps.append(("part", os.fstat(descriptor).st_size))

    def replaced(path: Path, target: Path) -> Path:
        size = json.loads(path.read_text())["size"] if path.name.endswith(".cursor.new") else 0
        steps.append((target.name, size))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(export_file, "_SECONDS_BETWEEN_CHECKPOINTS", 0)
    assert cli("users", "export", file).code == 0
    assert len(steps) > 6
    for (before, flushed_size), (name, size) in zip(steps[::2], steps[1::2], strict=True):
        assert before == "part"
        assert (name, flushed_size >= size) in {("users.jsonl.cursor", True), ("users.jsonl", True)}


def test_users_that_are_deleted_during_an_export_with_sessions_are_left_out(
    cli: CommandLine, a_service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = exports._sessions_reader

    def deleting(manager: SyncUserManager) -> Any:
        manager.delete("gone")
        return chunks(manager)

    with SyncUserManager(a_service.address) as users:
        users.add(user_id="gone")
        pages = list(users.list_chunked(5000))
    monkeypatch.setattr(SyncUserManager, "list_chunked", lambda *_, **__: iter(pages))
    monkeypatch.setattr(exports, "_sessions_reader", deleting)
    assert cli("users", "export", tmp_path / "users.jsonl", "--sessions").code == 0
    rows_written = from_json_lines((tmp_path / "users.jsonl").read_bytes())
    assert [row["user_id"] for row in rows_written] == [*NAMES, ODD["user_id"]]
