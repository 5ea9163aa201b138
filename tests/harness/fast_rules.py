"""Makes the alert rules of deploy/ fast enough for a test."""

import re

_TIMES = re.compile(r"(?<= for: )\w+$|(?<=\[)[\w:]+(?=\])|(?<= offset )\w+", re.MULTILINE)


def minutes_as_seconds(rules: str) -> str:
    """Returns the rules with seconds in place of minutes, and minutes in place of hours: in `for`, ranges and offsets.

    Queries, thresholds and labels stay the same.
    """
    return _TIMES.sub(lambda time: time[0].replace("m", "s").replace("h", "m"), rules)
