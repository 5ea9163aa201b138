"""``userservice users import``: formats, wrong rows, interruptions and files of other programs, with a real service."""

import csv
import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.commands import CommandLine, without_settings
from harness.services import Service
from harness.stores import Store

from userservice import SyncUserManager
from userservice.cli import imports

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
SET_BY_THE_SERVICE = ("id", "uuid", "created_at", "updated_at", "etag")


@pytest.fixture(scope="module")
def a_store() -> Iterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture(scope="module")
def a_service(a_store: Store) -> Iterator[Service]:
    with Service(redis_url=a_store.url) as service:
        yield service


@pytest.fixture
def cli(
    a_store: Store,
    a_service: Service,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> CommandLine:
    a_store.empty()
    without_settings(monkeypatch, tmp_path)
    return CommandLine(capfd, a_service.address)


def stored(service: Service) -> dict[str, dict[str, Any]]:
    with SyncUserManager(service.address) as users:
        return {user.user_id: user.to_dict(mode="json") for chunk in users.list_chunked(1000) for user in chunk}


def json_lines(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return file


def counts(result: Any) -> tuple[int, ...]:
    found = json.loads(result.out)
    return tuple(found[name] for name in ("rows", "added", "merged", "replaced", "skipped", "failed"))


@pytest.mark.parametrize(
    "suffix", ["jsonl", *(pytest.param(name, marks=pytest.mark.long) for name in ("csv", "parquet"))]
)
def test_an_import_of_an_export_equals_the_source(
    cli: CommandLine, a_service: Service, a_store: Store, tmp_path: Path, suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    odd = {
        "first_name": 'two\nlines, "q"\r\n',
        "last_name": "\u0085漢",
        "metadata": {"a": [1, 1.5, None, {"": True}], "b": None},
    }
    cli("users", "import", json_lines(tmp_path / "a.jsonl", [{"user_id": f"u{n}", **odd} for n in range(1200)]))
    cli("users", "import", json_lines(tmp_path / "b.jsonl", [{"user_id": "plain"}, {"user_id": "x" * 256}]))
    end = "2150-01-01T00:00:00.000001Z"
    cli("sessions", "add", "u7", "laptop", "--metadata", '{"os": "x"}', "--idle-ttl", "900", "--expire-time", end)
    source = stored(a_service)
    assert len(source) == 1202
    file = tmp_path / f"users.{suffix}"
    cli("users", "export", file, "--sessions")

    a_store.empty()
    done = cli("users", "import", file, "--sessions", "--json")
    assert (done.code, counts(done), done.json()["failed_sessions"]) == (0, (1202, 1202, 0, 0, 0, 0), 0)
    copies = stored(a_service)
    assert list(copies) == list(source)
    for user_id, copy in copies.items():
        assert copy["uuid"] != source[user_id]["uuid"]
        kept = {name: value for name, value in copy.items() if name not in SET_BY_THE_SERVICE}
        assert kept == {name: source[user_id][name] for name in kept}
    [session] = cli("sessions", "list", "u7", "-o", "jsonl").lines()
    assert (session["metadata"], session["idle_ttl"], session["max_expire_time"]) == ({"os": "x"}, 900, end)

    a_store.empty()
    assert cli("users", "import", file, "--restore").code == 0
    assert stored(a_service) == source


def test_wrong_rows_fail_alone_and_are_written_to_a_file(cli: CommandLine, a_service: Service, tmp_path: Path) -> None:
    rows = [
        {"user_id": "a"},
        "{not json",
        {"user_id": "b", "email": "x" * 321},
        "",
        {"user_id": "a"},
        {"user_id": 7},
        {"user_id": "c", "metadata": {"n": 2**60}},
        '"text"',
        {"email": "nobody@example.com"},
        {"user_id": "d", "metadata": "text"},
        {"user_id": "e", "colour": "red"},
        {"user_id": "last", "metadata": {"k": "x" * 65_000}},
    ]
    file, failed = json_lines(tmp_path / "users.jsonl", rows), tmp_path / "failed.jsonl"
    with file.open("ab") as out:
        out.write(b'{"user_id": "\xff"}\n' + b'{"user_id": "' + b"x" * (3 << 20) + b'"}\n' + b'{"user_id": "z"}')
    done = cli("users", "import", file, "--failed", failed, "--json")
    assert (done.code, counts(done)) == (1, (14, 3, 0, 0, 0, 11))
    assert stored(a_service).keys() == {"a", "last", "z"}
    found = [json.loads(line) for line in failed.read_text().splitlines()]
    assert [row["import_error"].partition(":")[0] for row in found] == [
        "the row is not valid JSON (column 2)",
        "email",
        "the user already exists",
        "user_id",
        "metadata.n",
        "the row is not a JSON object",
        "user_id",
        "metadata",
        "colour",
        "the row is not UTF-8",
        "the row is larger than 2 MiB",
    ]
    assert found[0]["import_text"] == "{not json"
    assert found[1]["email"] == "x" * 321
    assert "userservice: error: row 2: the row is not valid JSON (column 2)\n" in done.err
    assert "320 bytes" in done.err
    assert "and 1 more rows" in done.err
    assert stat.S_IMODE(failed.stat().st_mode) == 0o600, "the rows are personal data"
    # The corrected file can be imported.
    found[1]["email"] = "b@example.com"
    corrected = cli("users", "import", json_lines(tmp_path / "corrected.jsonl", [found[1]]), "--json")
    assert (corrected.code, counts(corrected)[1]) == (0, 1)


def test_wrong_rows_of_csv_and_parquet_are_written_in_their_format(cli: CommandLine, tmp_path: Path) -> None:
    text = (
        '\ufeffuser_id,email,metadata,first_name\r\na,,"{""k"":\n""1,2""}",\r\nb,x,{,\r\nc\r\n,,,\r\nd,e,,"F\r\n"\r\n'
    )
    file, failed = tmp_path / "users.csv", tmp_path / "failed.csv"
    file.write_text(text, newline="")
    done = cli("users", "import", file, "--failed", failed, "--json")
    assert (done.code, counts(done)) == (1, (5, 2, 0, 0, 0, 3))
    assert cli("users", "get", "a", "-o", "json").json()["metadata"] == {"k": "1,2"}
    assert cli("users", "get", "d", "-o", "json").json()["first_name"] == "F\r\n"
    rows = list(csv.DictReader(io.StringIO(failed.read_text(), newline="")))
    assert [row["import_error"].partition(":")[0] for row in rows] == [
        "metadata",
        "the row has 1 columns, and the header 4",
        "user_id",
    ]
    assert (rows[0]["user_id"], rows[0]["metadata"], rows[1]["import_text"]) == ("b", "{", "c")
    parquet = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    source, rejected = tmp_path / "users.parquet", tmp_path / "failed.parquet"
    table = pa.table({"user_id": ["x", "", None], "metadata": [{"n": 1, "m": None}, {"n": 2, "m": "x"}, None]})
    parquet.write_table(table, source)
    done = cli("users", "import", source, "--failed", rejected, "--json")
    assert (done.code, counts(done)) == (1, (3, 1, 0, 0, 0, 2))
    assert cli("users", "get", "x", "-o", "json").json()["metadata"] == {"n": 1}
    maps = pa.array([[("k", "1")], []], pa.map_(pa.string(), pa.string()))
    parquet.write_table(pa.table({"user_id": ["m", "n"], "metadata": maps}), tmp_path / "maps.parquet")
    assert cli("users", "import", tmp_path / "maps.parquet").code == 0
    assert cli("users", "get", "m", "-o", "json").json()["metadata"] == {"k": "1"}
    [first, second] = parquet.read_table(rejected).to_pylist()
    assert (first["metadata"], second["user_id"]) == ({"n": 2, "m": "x"}, None)
    assert first["import_error"].startswith("user_id: ")


def test_an_interrupted_import_continues_and_counts_as_one(
    cli: CommandLine, a_service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = [{"user_id": f"u{number % 3000}", "email": "a"} for number in range(3200)]
    rows[700] = "not json"
    file, failed = json_lines(tmp_path / "users.jsonl", rows), tmp_path / "failed.jsonl"
    advance = imports._Run._advance
    for stop in (1000, 2000):

        def interrupted(run: Any, status: Any, stop: int = stop) -> None:
            advance(run, status)
            if status.offset >= stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(imports._Run, "_advance", interrupted)
        done = cli("users", "import", file, "--failed", failed)
        assert (done.code, done.out) == (130, "")
        assert "the same command continues the import" in done.err
    monkeypatch.setattr(imports._Run, "_advance", advance)
    done = cli("users", "import", file, "--failed", failed, "--json")
    assert (done.code, counts(done)) == (1, (3200, 2999, 0, 0, 0, 201))
    # The interrupted run had sent more rows than the service had acknowledged.
    assert 2000 <= int(done.err.split("an earlier run has applied ")[1].split()[0]) <= 3200
    assert "row 701: the row is not valid JSON (column 1)" in done.err
    assert len(failed.read_text().splitlines()) == 201
    assert len(stored(a_service)) == 2999
    # The same command again changes nothing; a new import does.
    again = cli("users", "import", file, "--json")
    assert (counts(again), again.json()["import_id"]) == (counts(done), done.json()["import_id"])
    # The id is derived from the content: another name is the same import, and other content is another import.
    again = cli("users", "import", file.rename(tmp_path / "renamed.jsonl"), "--json")
    assert (counts(again), again.json()["import_id"]) == (counts(done), done.json()["import_id"])
    other = cli("users", "import", json_lines(file, rows[:1]), "--json")
    assert (other.code, "IMPORT_ID_REUSED" in other.err) == (1, False)
    assert counts(other) == (1, 0, 0, 0, 0, 1)
    json_lines(file, rows)
    assert counts(cli("users", "import", file, "--new", "--on-duplicate", "skip", "--json"))[4] == 3199
    file.write_text(file.read_text() + '{"user_id": "more"}\n')
    reused = cli.error(1, "users", "import", file, "--import-id", done.json()["import_id"])
    assert "IMPORT_ID_REUSED" in reused


def test_sessions_of_rows_are_added_once_and_failed_sessions_are_counted(cli: CommandLine, tmp_path: Path) -> None:
    rows = [
        {"user_id": "a", "sessions": [{"session_id": "s"}, {"session_id": "x", "expire_time": "2026-01-01T00:00:00Z"}]},
        {"user_id": "b", "sessions": [{"session_id": ""}, {"session_id": "t"}]},
        {"user_id": "c", "sessions": "not a list"},
        {"user_id": "d", "sessions": [{"session_id": "s", "max_expire_time": "tomorrow"}]},
    ]
    file = json_lines(tmp_path / "users.jsonl", rows)
    checked = cli("users", "import", file, "--sessions", "--validate-only", "--json")
    assert (checked.code, checked.json()["failed_sessions"]) == (0, 0)
    for _ in range(2):  # the second run finds the sessions of the first one
        done = cli("users", "import", file, "--sessions", "--json")
        assert (done.code, counts(done)[1], done.json()["failed_sessions"]) == (1, 4, 3)
        assert "row 4: sessions: max_expire_time: must be a time" in done.err
        assert "row 3: sessions: " in done.err
    for user_id, session_id in (("a", "s"), ("b", "t")):
        [session] = cli("sessions", "list", user_id, "-o", "jsonl").lines()
        assert session["session_id"] == session_id


def test_duplicates_are_skipped_merged_replaced_or_only_checked(
    cli: CommandLine, a_service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("users", "add", "ada", "--email", "a", "--first-name", "Ada", "--metadata", '{"x": 1, "y": 2}')
    file = json_lines(tmp_path / "users.jsonl", [{"user_id": "ada", "email": "b", "metadata": {"y": None, "z": 3}}])
    for mode, expected in (
        ("skip", ("a", "Ada", {"x": 1, "y": 2})),
        ("merge", ("b", "Ada", {"x": 1, "z": 3})),
        ("replace", ("b", "", {"y": None, "z": 3})),
    ):
        checked = cli("users", "import", file, "--on-duplicate", mode, "--validate-only", "--json")
        assert (checked.code, counts(checked)[0]) == (0, 1)
        assert cli("users", "import", file, "--on-duplicate", mode).code == 0
        user = stored(a_service)["ada"]
        assert (user["email"], user["first_name"], user["metadata"]) == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"user_id\nbob\n")))
    assert cli("users", "import", "-", "-f", "csv").out.startswith("standard input: 1 rows, 1 added")


@pytest.mark.parametrize(
    ("name", "content", "options", "mentioned"),
    [
        ("a.jsonl", b"PAR1", [], "--format parquet"),
        ("a.jsonl", b"\x1f\x8b\x08", [], "gzip"),
        ("a.csv", "\ufeffuser_id".encode("utf-16-le"), [], "UTF-16"),
        ("a.jsonl", b"user_id,email\na,b\n", [], "no row of"),
        ("a.csv", b"", [], "no header"),
        ("a.csv", b"id,email\n1,a\n", [], "--map user_id=COLUMN"),
        ("a.csv", b"user_id,user_id\n1,a\n", [], "same name"),
        ("a.csv", b"user_id,colour\n1,a\n", [], "unknown columns: colour"),
        ("a.parquet", b"text", [], "as Parquet"),
        ("a.jsonl", b"{}", ["--map", "colour=red"], "FIELD=COLUMN"),
        ("a.jsonl", b'{"user_id": "a"}', ["--import-id", "7"], "import_id"),
        ("a.jsonl", b'{"user_id": "a"}', ["--failed", "a.jsonl"], "--failed"),
        (None, b"", [], "No such file"),
    ],
)
def test_a_wrong_file_is_one_line(
    cli: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
    content: bytes,
    options: list[str],
    mentioned: str,
) -> None:
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    if name:
        Path(name).write_bytes(content)
    assert mentioned in cli.error(2, "users", "import", name or "nowhere.csv", *options)


FOREIGN: dict[str, tuple[dict[str, Any], list[str], dict[str, Any]]] = {
    "firebase": (
        {
            "localId": "f1",
            "email": "ada@example.com",
            "displayName": "Ada King",
            "phoneNumber": "+44123",
            "passwordHash": "c2VjcmV0",
            "createdAt": "1600000000000",
            "providerUserInfo": [{"providerId": "google.com", "rawId": "1"}],
        },
        ["user_id=localId", "first_name=displayName", "metadata.phone=phoneNumber"],
        {"user_id": "f1", "first_name": "Ada King", "metadata": {"phone": "+44123"}},
    ),
    "auth0": (
        {
            "user_id": "auth0|5f7c8ec7c33c6c004bbafe82",
            "email": "ada@example.com",
            "given_name": "Ada",
            "family_name": "King",
            "created_at": "2020-10-06T15:37:11.163Z",
            "user_metadata": {"theme": "dark"},
            "app_metadata": {"plan": "pro"},
            "identities": [{"provider": "auth0"}],
        },
        ["first_name=given_name", "last_name=family_name", "metadata.user=user_metadata", "metadata.app=app_metadata"],
        {
            "user_id": "auth0|5f7c8ec7c33c6c004bbafe82",
            "last_name": "King",
            "metadata": {"user": {"theme": "dark"}, "app": {"plan": "pro"}},
        },
    ),
    "keycloak": (
        {
            "id": "0d9bd2f0-6d17-4b6b-9d0b-7e8e6a3a1f10",
            "username": "ada",
            "email": "ada@example.com",
            "firstName": "Ada",
            "lastName": "King",
            "createdTimestamp": 1600000000000,
            "attributes": {"plan": ["pro"], "locale": ["en"]},
        },
        ["user_id=id", "first_name=firstName", "last_name=lastName", "metadata.username=username",
         "metadata.plan=attributes.plan.0"],
        {
            "user_id": "0d9bd2f0-6d17-4b6b-9d0b-7e8e6a3a1f10",
            "first_name": "Ada",
            "metadata": {"username": "ada", "plan": "pro"},
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("program", FOREIGN)
def test_users_of_other_programs_are_imported_with_the_documented_mapping(
    cli: CommandLine, a_service: Service, tmp_path: Path, program: str
) -> None:
    exported, pairs, expected = FOREIGN[program]
    options = [word for pair in pairs for word in ("--map", pair)]
    document = (FIXTURES.parents[1] / "docs" / "cli.md").read_text()
    assert f"{program}.jsonl {' '.join(options)} --unknown ignore" in " ".join(document.replace("\\\n", " ").split())
    file = json_lines(tmp_path / f"{program}.jsonl", [exported])
    assert cli("users", "import", file, *options, "--unknown", "ignore").code == 0
    [user] = stored(a_service).values()
    assert {name: user[name] for name in expected} == expected


@pytest.mark.parametrize("program", ["pandas", "polars", "duckdb"])
def test_parquet_files_of_other_programs_are_imported(cli: CommandLine, a_service: Service, program: str) -> None:
    pytest.importorskip("pyarrow")
    done = cli("users", "import", FIXTURES / "parquet" / f"{program}.parquet", "--unknown", "metadata", "--json")
    assert (done.code, counts(done)[:2]) == (0, (2, 2))
    users = stored(a_service)
    assert (users["ada"]["email"], users["ada"]["metadata"]["seats"]) == ("ada@example.com", 3)
    assert users["ada"]["metadata"]["joined"].startswith("2026-11-26T00:15:44")
    assert (users["bob"]["email"], users["bob"]["metadata"]) == ("", {"seats": 4})
