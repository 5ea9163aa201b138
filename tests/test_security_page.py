"""docs/security.md is correct: its commands print the shown output, and its tables match the code."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from harness.credentials import TlsFiles, authority, issued, new_key, private
from harness.services import Service, clean_environment
from harness.tools import require

from userservice.v1 import session_service_pb2, user_service_pb2
from userservice_server.transport.call import Rpc
from userservice_server.transport.credentials.keys_file import parse_keys_file
from userservice_server.transport.credentials.scopes import required_scope
from userservice_server.transport.status import RULES

ROOT = Path(__file__).parents[1]
ROOT_CA = authority()
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ADDRESS = "localhost:50051"
VARYING = {
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "UUID",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z": "TIME",
    r'("id": )"\d+"': r'\1"ID"',
    r'("etag": )"[^"]+"': r'\1"ETAG"',
    r'("request_id": )"[^"]+"': r'\1"REQUEST"',
    r"(revoked )\w{12}": r"\1KEY_ID",
}


def steps(block: str) -> list[list[str]]:
    """Returns each command with the output that the page shows."""
    return [step.split("\n", 1) for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]


def steady(output: str) -> str:
    output = "\n".join(" ".join(line.split()) for line in output.strip().splitlines())
    for varying, name in VARYING.items():
        output = re.sub(varying, name, output)
    return output


@pytest.mark.long
def test_the_commands_of_the_page_print_the_shown_output(tmp_path: Path) -> None:
    setup, calls, revocation, certificate, key = re.findall(r"^```console\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    bin_folder = Path(sys.executable).parent
    path = os.pathsep.join([str(bin_folder), str(require("grpcurl").parent), os.environ["PATH"]])
    environment = clean_environment() | {"PATH": path}

    def run(command: str) -> str:
        command = f"umask 077; [ -f writer.key ] && export KEY=$(cat writer.key); {command}"
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout

    *before, [serve, _] = steps(setup)
    for command, _ in before:
        run(command)
    arguments = shlex.split(serve)[2:]
    options = [tmp_path / argument if (tmp_path / argument).is_file() else argument for argument in arguments]
    with Service(*options, data_dir=tmp_path / "data") as service:
        for command, said in steps(calls + certificate + key + calls.replace('"ada"', '"bob"') + revocation):
            address = service.address.replace("127.0.0.1", "localhost")
            output = run(command.replace(ADDRESS, address))
            # openssl shows its progress, in a form that depends on its version.
            assert command.startswith("openssl ") or steady(output) == steady(said), command
        assert service.stop() == 0


@pytest.mark.long
def test_the_programs_of_the_page_use_the_settings_of_the_page(tmp_path: Path) -> None:
    [settings] = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    [python] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    [typescript] = re.findall(r"^```ts\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    files = TlsFiles(tmp_path).write(issued(ROOT_CA))
    private(tmp_path / "writer.key", new_key(tmp_path / "keys.toml", "users.read,users.write") + "\n")
    private(tmp_path / "ca.pem", ROOT_CA.cert_pem)
    package = tmp_path / "node_modules" / "userservice"
    package.parent.mkdir()
    package.symlink_to(ROOT / "client" / "typescript")
    (tmp_path / "program.mjs").write_text(typescript)
    options = [*files.arguments, "--auth", "keys", "--keys-file", tmp_path / "keys.toml"]
    with Service(*options, data_dir=tmp_path / "data") as service:
        address = service.address.replace("127.0.0.1", "localhost")
        assignments = settings.replace(ADDRESS, address).replace("$PWD", str(tmp_path))
        pairs = (item.split("=", 1) for item in shlex.split(assignments)[1:])
        environment = clean_environment() | dict(pairs)
        programs = [[sys.executable, "-c", python]]
        if (ROOT / "client" / "typescript" / "dist" / "index.mjs").exists():
            programs.append([str(require("node")), "program.mjs"])
        for program in programs:
            done = subprocess.run(
                program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, "grace\n", ""), program
        assert service.stop() == 0


def test_the_keys_file_of_the_page_is_valid() -> None:
    [example] = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    parsed = parse_keys_file(example.encode(), Path("keys.toml"))
    assert (len(parsed.keys), len(parsed.certificates)) == (1, 1)


def test_the_table_of_scopes_matches_the_protos() -> None:
    table = PAGE.partition("| scope | methods |")[2].partition("\n\n")[0]
    shown = {
        name: scope
        for scope, names in re.findall(r"^\| `([a-z.]+)` \| (.*) \|$", table, re.MULTILINE)
        for name in names.split(", ")
    }
    services = (
        user_service_pb2.DESCRIPTOR.services_by_name["UserService"],
        session_service_pb2.DESCRIPTOR.services_by_name["SessionService"],
    )
    methods = [method for service in services for method in service.methods]
    assert shown == {method.name: required_scope(Rpc.described_by(method)) for method in methods}


def test_the_table_of_errors_matches_the_protos() -> None:
    section = PAGE.partition("## Errors of authentication")[2].partition("\n## ")[0]
    rows = re.findall(r"\| ([A-Z_]+) \| ([A-Z_]+) \|$", section, re.MULTILINE)
    assert len(rows) == 5
    assert rows == [(RULES[reason].code, reason) for _, reason in rows]
    [retried] = re.findall(r"The clients retry ([A-Z_]+) and ([A-Z_]+) ", section)
    assert {*retried} == {reason for _, reason in rows if RULES[reason].retried}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:unit|service|faults)/[\w/]+\.py)`", PAGE))))
def test_the_tests_that_the_page_names_exist(name: str) -> None:
    assert (ROOT / "tests" / name).is_file()
