"""The layout of ids: 47 bits of time in ticks of 25 microseconds since 2025-01-01, then 6 bits of partition.

These 53 bits last until the year 2136, and numbers in Lua and JavaScript represent them exactly. The scripts use the
constants of this module (see store/scripts/__init__.py).
"""

EPOCH_SECONDS = 1735689600  # 2025-01-01
TICKS_A_SECOND = 40_000
TICK_MICROSECONDS = 1_000_000 // TICKS_A_SECOND
PARTITIONS = 64  # the number of partitions that the low bits of an id can distinguish
MAX_ID = (1 << 53) - 1  # the largest integer that JavaScript represents exactly


def id_at(seconds: float) -> int:
    """Returns the id of a time in partition 0, or 0 before 2025, as the scripts do.

    Args:
        seconds: the time in seconds since 1970, as time.time() returns it.
    """
    return max(int((seconds - EPOCH_SECONDS) * TICKS_A_SECOND), 0) * PARTITIONS
