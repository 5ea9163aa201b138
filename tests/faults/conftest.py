"""What the fault tests share: their seed."""

import os
import random
import secrets

import pytest


@pytest.fixture
def seed() -> int:
    """Printed with a failure; FAULTS_SEED repeats it."""
    number = int(os.environ.get("FAULTS_SEED") or secrets.randbelow(1 << 32))
    print(f"FAULTS_SEED={number}")  # noqa: T201 - pytest shows it with a failure
    return number


@pytest.fixture
def dice(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a seeded stream of faults, no secret
