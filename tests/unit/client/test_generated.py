"""The blocking managers are what tools/generate_sync.py generates from the asyncio managers."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import userservice
from userservice import SessionManager, SyncSessionManager, SyncUserManager, UserManager

ROOT = Path(__file__).resolve().parents[3]
COMMITTED = Path(userservice.__file__).parent / "_sync"


def test_the_committed_files_are_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "generate_sync.py", tmp_path], check=True)
    generated = tmp_path / "client" / "python" / "userservice" / "_sync"
    names = sorted(path.name for path in generated.iterdir())
    assert names == sorted(path.name for path in COMMITTED.glob("*.py"))
    stale = [name for name in names if (generated / name).read_text() != (COMMITTED / name).read_text()]
    assert stale == [], "run make generate"


def test_no_asyncio_code_is_left() -> None:
    asynchronous = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    for path in COMMITTED.glob("*.py"):
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, asynchronous) for node in ast.walk(tree)), path
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"userservice._transport", "userservice._connection", "userservice._retry"}, path


@pytest.mark.parametrize(
    ("manager", "blocking"), [(UserManager, SyncUserManager), (SessionManager, SyncSessionManager)]
)
def test_both_kinds_have_the_same_methods(manager: type, blocking: type) -> None:
    for name, method in inspect.getmembers(manager, inspect.isfunction):
        if name not in {"__aenter__", "__aexit__"}:
            twin = getattr(blocking, name)
            assert list(inspect.signature(twin).parameters) == list(inspect.signature(method).parameters), name
            assert not inspect.iscoroutinefunction(twin)
            assert not inspect.isasyncgenfunction(twin)
