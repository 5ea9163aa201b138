"""Encodes the lines of the logs as JSON."""

import json
from typing import Any

import orjson


def json_line(fields: dict[str, Any]) -> bytes:
    """Returns the fields as a line of JSON. Values of other types are written as text."""
    try:
        return orjson.dumps(fields, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # orjson rejects lone surrogates and integers beyond 64 bits
        return json.dumps(fields, default=str).encode() + b"\n"
