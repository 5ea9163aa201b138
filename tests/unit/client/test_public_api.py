import inspect
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import userservice
from userservice import SessionManager, SyncSessionManager, SyncUserManager, UserManager
from userservice.__main__ import SERVER_MODULES, main

ROOT = Path(__file__).parents[3]

NAMES = [
    "AddSessionFields",
    "AddUserFields",
    "AuthenticationUnavailableError",
    "CallAttempt",
    "Change",
    "Changes",
    "CredentialsInvalidError",
    "CredentialsMissingError",
    "DeadlineExceededError",
    "EtagMismatchError",
    "FieldViolation",
    "ImportIdReusedError",
    "ImportNotFoundError",
    "ImportOffsetGapError",
    "ImportStatus",
    "IndexNotReadyError",
    "InternalError",
    "InvalidArgumentError",
    "ManagerClosedError",
    "ManagerUnusableError",
    "OrderBy",
    "OverloadedError",
    "RateLimitedError",
    "ReaderStalledError",
    "RequestIdReusedError",
    "RowError",
    "ScopeMissingError",
    "ServerShuttingDownError",
    "Session",
    "SessionAlreadyExistsError",
    "SessionLimitError",
    "SessionManager",
    "SessionNotFoundError",
    "SessionPage",
    "StoreChangedError",
    "StoreFullError",
    "StoreUnavailableError",
    "SyncSessionManager",
    "SyncUserManager",
    "UnavailableError",
    "UpdateConflictError",
    "UpdateSessionFields",
    "UpdateUserFields",
    "User",
    "UserAlreadyExistsError",
    "UserBatch",
    "UserManager",
    "UserNotFoundError",
    "UserPage",
    "UserScanPart",
    "UserServiceError",
    "View",
    "WatchDisabledError",
    "WatchTokenExpiredError",
]

TWINS = [(UserManager, SyncUserManager), (SessionManager, SyncSessionManager)]


def methods(manager: type[Any]) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(manager, inspect.isfunction) if name[0] != "_"}


def normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_the_public_names_are_these() -> None:
    assert sorted(userservice.__all__) == NAMES
    assert all(hasattr(userservice, name) for name in NAMES)


@pytest.mark.parametrize(("manager", "twin"), TWINS)
def test_the_blocking_managers_have_the_same_methods(manager: type[Any], twin: type[Any]) -> None:
    assert methods(manager).keys() == methods(twin).keys()
    for name, method in {**methods(manager), "__init__": manager.__init__}.items():
        ours, theirs = inspect.signature(method), inspect.signature(getattr(twin, name))
        assert ours.parameters == theirs.parameters, name
        returned = ours.return_annotation
        if returned.startswith("AsyncGenerator["):
            returned = returned.replace("AsyncGenerator", "Generator").replace(", None]", ", None, None]")
        assert returned == theirs.return_annotation, name


def camel_case(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)


@pytest.mark.parametrize(("manager", "kind"), [(kind, twins[0].__name__) for twins in TWINS for kind in twins])
def test_methods_have_the_listed_names_in_both_forms(manager: type[Any], kind: str) -> None:
    names = json.loads((ROOT / "client/method_names.json").read_text())
    snake = {*names["Manager"], *names[kind]}
    public = {name for name in dir(manager) if name[0] != "_"}
    assert public == {form for name in snake for form in (name, camel_case(name))}
    for name in snake - {"list_chunked"}:  # its camelCase form has a parameter chunkSize
        assert getattr(manager, camel_case(name)) == getattr(manager, name)


@pytest.mark.parametrize("manager", [UserManager, SyncUserManager])
def test_list_chunked_has_both_forms_of_its_parameter(manager: type[Any]) -> None:
    parameters = list(inspect.signature(manager.list_chunked).parameters)
    assert list(inspect.signature(manager.listChunked).parameters) == ["self", "chunkSize", *parameters[2:]]


def test_the_import_loads_only_modules_that_every_program_needs() -> None:
    code = "import sys; before = {*sys.modules}; from userservice import *; print(*sys.modules.keys() - before)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "userservice.user_manager" in loaded
    unwanted = (
        "google.rpc.error_details",
        "google.protobuf.json_format",
        "userservice_server",
        "uvloop",
        "redis",
        "uuid",
        "random",
    )
    assert [name for name in loaded if name.startswith(unwanted)] == []


def test_the_generated_code_and_the_server_load_no_manager() -> None:
    code = """
import sys, userservice.__main__, userservice.v1.user_service_pb2
assert "grpc" not in sys.modules  # the server sets GRPC_VERBOSITY before it imports grpc
import userservice_server.cli
print(*(name for name in sys.modules if name.startswith("userservice.")))
"""
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "userservice.v1.user_service_pb2" in loaded
    assert [name for name in loaded if not name.startswith(("userservice.v1", "userservice.__main__"))] == []


def test_public_names_and_modules_are_imported_at_their_first_use() -> None:
    code = "import userservice; assert {*userservice.__all__, 'errors'} <= {*dir(userservice)}; "
    code += "print(userservice.errors.UserServiceError is userservice.UserServiceError)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "True\n"
    with pytest.raises(AttributeError, match="has no attribute 'nowhere'"):
        _ = userservice.nowhere


def test_the_command_knows_the_modules_of_the_server_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extra = project["project"]["optional-dependencies"]["server"]
    wanted = {normalized(re.split("[<>=!;]", requirement)[0]) for requirement in extra}
    modules: dict[str, set[str]] = {}
    for module, distributions in metadata.packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(normalized(distribution), set()).add(module)
    for distribution in wanted:
        assert modules.get(distribution, set()) & SERVER_MODULES, distribution


@pytest.mark.parametrize("module", ["click", "redis", "userservice_server"])
def test_without_the_server_extra_the_command_prints_how_to_install_it(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("userservice.__main__.import_module", missing)
    monkeypatch.setattr("sys.argv", ["userservice", "serve"])
    assert main() == 2
    assert capsys.readouterr().err == ("userservice: the server is not installed; pip install 'userservice[server]'\n")


@pytest.mark.parametrize("module", ["userservice_server.nowhere", "some_typo"])
def test_other_import_errors_are_not_changed(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("userservice.__main__.import_module", missing)
    monkeypatch.setattr("sys.argv", ["userservice", "serve"])
    with pytest.raises(ModuleNotFoundError, match=module):
        main()
