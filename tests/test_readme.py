"""The programs of README.md run, and its tables match the code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from harness.services import Service, clean_environment
from harness.tools import require

from userservice.errors import ERROR_BY_REASON
from userservice_server.cli.serve import serve
from userservice_server.transport import status

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
ADDRESS = "localhost:50051"

# What differs from run to run. The order of fields in JSON, and its spaces, are grpcurl's whim.
VARYING = {
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "UUID",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z": "TIME",
    r'("id": )"\d+"': r'\1"ID"',
    r'("etag": )"[^"]+"': r'\1"ETAG"',
    r'("request_id": )"[^"]+"': r'\1"REQUEST"',
}


def block(language: str) -> str:
    """Returns the first block of code in a language."""
    return str(re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)[0])


def steady(output: str) -> str:
    output = "\n".join(" ".join(line.split()) for line in output.strip().splitlines())
    for varying, name in VARYING.items():
        output = re.sub(varying, name, output)
    return output


def test_the_python_program_runs(service: Service) -> None:
    program = block("python").replace(ADDRESS, service.address)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("user123 pro 20")
    assert second == "['user123']"


def test_the_grpcurl_session_prints_the_documented_output(service: Service) -> None:
    environment = clean_environment() | {"PATH": f"{require('grpcurl').parent}{os.pathsep}{os.environ['PATH']}"}
    commands = re.split(r"^\$ ", block("console"), flags=re.MULTILINE)[1:]
    assert commands
    for step in commands:
        [command, said] = re.split(r"(?<!\\)\n", step, maxsplit=1)
        done = subprocess.run(
            ["sh", "-c", command.replace(ADDRESS, service.address)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            check=False,
            timeout=60,
        )
        assert steady(done.stdout) == steady(said), command


def rows(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading."""
    table = README.partition(f"\n## {heading}\n")[2].partition("\n|---")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[1:]]


def test_the_configuration_table_matches_the_command() -> None:
    def default(option: click.Option) -> str:
        if option.default is None:
            return ""
        return f"`{json.dumps(option.default) if isinstance(option.default, bool) else option.default}`"

    options = [option for option in serve.params if isinstance(option, click.Option)]
    assert rows("Configuration") == [
        [f"`{option.opts[0]}`", f"`{option.envvar}`", default(option), str(option.help)] for option in options
    ]


def test_the_error_table_has_every_reason_with_its_class_in_the_client() -> None:
    assert [(row[0], row[1], row[2]) for row in rows("Errors")] == [
        (f"`{reason}`", rule.code, f"`{ERROR_BY_REASON[reason].__name__}`") for reason, rule in status.RULES.items()
    ]


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)]+)\)", README))
def test_every_link_of_the_readme_leads_to_a_file_or_folder_and_its_heading(target: str) -> None:
    path, _, heading = target.partition("#")
    linked = Path(__file__).parent.parent / path
    assert linked.exists()
    if heading:
        headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
        assert heading in [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]


@pytest.mark.parametrize("line", re.findall(r"`?make ([a-z][a-z -]*)", README))
def test_every_make_target_of_the_readme_exists(line: str) -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in line.split():
        assert re.search(rf"^{target}:.* ## ", makefile, re.MULTILINE), target
