"""gRPC does not work after a fork.

A call in the child would wait forever, even after its deadline, so it is rejected.
"""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import forking
from harness.programs import Program
from harness.services import Service, clean_environment

REFUSED = "ManagerUnusableError('a manager or other asyncio gRPC was used before the process forked; before forking, "


def forked(service: Service, case: str) -> Program:
    return Program([sys.executable, Path(forking.__file__), service.address, case], clean_environment())


@pytest.mark.parametrize(
    "case",
    [
        "open",
        "asyncio",
    ],
)
def test_no_manager_works_in_a_child_if_one_was_in_use(large_service: Service, case: str) -> None:
    with forked(large_service, case) as program:
        program.wait_for("stdout", "^done$")
        of_child = program.stdout[: program.stdout.index("done")]  # the parent may have written its line already
        assert [line.startswith(REFUSED) for line in of_child] == [True, True, True], of_child
        assert program.wait() == 0


def test_the_manager_of_the_parent_still_works(large_service: Service) -> None:
    with forked(large_service, "open") as program:
        program.wait_for("stdout", "^parent u1$")
        assert program.wait() == 0


@pytest.mark.parametrize("case", ["closed", "closed in mid stream"])
def test_managers_work_in_a_child_if_all_were_closed(large_service: Service, case: str) -> None:
    with forked(large_service, case) as program:
        program.wait_for("stdout", "^done$")
        assert program.stdout == ["ManagerClosedError('the manager is closed')", "'u1'", "'u1'", "done"]
        assert program.wait() == 0


@pytest.mark.long
def test_managers_work_in_a_child_that_is_forked_while_grpc_stops_its_threads(large_service: Service) -> None:
    with ExitStack() as stack:
        # Several at once: with a busy CPU, gRPC takes longer to stop its threads.
        programs = [stack.enter_context(forked(large_service, "while grpc stops")) for _ in range(4)]
        for program in programs:
            program.wait_for("stdout", "^done$", within=100)
            assert program.wait() == 0


@pytest.mark.parametrize("case", ["unused", "forgotten"])
def test_managers_work_in_a_child_if_none_is_in_use(large_service: Service, case: str) -> None:
    with forked(large_service, case) as program:
        program.wait_for("stdout", "^done$")
        assert program.stdout == ["'u1'", "'u1'", "'u1'", "done"]
        assert program.wait() == 0


def test_deadlines_of_streams_work_in_a_child(large_service: Service) -> None:
    with forked(large_service, "deadline") as program:
        program.wait_for("stdout", "^done$")
        assert program.stdout == ["'u1'", "'u1'", "'u1'", "deadline", "done"]
        assert program.wait() == 0
