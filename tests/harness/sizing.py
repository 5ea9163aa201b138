"""Sizes of the fault tests: small in `make test`, full with FAULTS=full, as in `make faults`."""

import os

FULL = os.environ.get("FAULTS") == "full"


def sized(short: int, full: int) -> int:
    """Returns the first size, or the second size with FAULTS=full."""
    return full if FULL else short
