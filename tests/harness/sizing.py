"""How large the fault tests are: a part of every test run, or, with FAULTS=full, as `make faults` has them."""

import os

FULL = os.environ.get("FAULTS") == "full"


def sized(short: int, full: int) -> int:
    """A size: the second one with FAULTS=full."""
    return full if FULL else short
