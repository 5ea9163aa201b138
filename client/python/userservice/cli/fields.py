"""The fields of a write: from options and, with --input, from a file with a JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

STANDARD_INPUT = "-"


def user_field_options(function: Function) -> Function:
    """Adds the options for the fields of a user to a command."""
    for name, what in (("last-name", "Family name."), ("first-name", "Given name."), ("email", "E-mail address.")):
        function = click.option(f"--{name}", metavar="TEXT", help=what)(function)
    return function


def write_options(function: Function) -> Function:
    """Adds --metadata, --input and --request-id to a command."""
    for option in (
        click.option(
            "--request-id", metavar="UUID", help="Idempotency key: the same command with the same key is applied once."
        ),
        click.option(
            "--input",
            "source",
            metavar="FILE",
            help="File with a JSON object of fields; - is standard input. Options take precedence over its fields.",
        ),
        click.option(
            "--metadata", metavar="JSON", help="JSON object; @FILE reads it from a file, @- from standard input."
        ),
    ):
        function = option(function)
    return function


def filter_option(function: Function) -> Function:
    """Adds --filter to a command."""
    help_text = (
        "Only users that match, such as 'metadata.plan = \"pro\"'; see docs/filters.md. "
        "@FILE reads the filter from a file, @- from standard input."
    )
    return click.option("--filter", "user_filter", metavar="FILTER", callback=_read_filter, help=help_text)(function)


def _read_filter(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    return _read(text[1:], "--filter") if text and text.startswith("@") else text


def fields_of(source: str | None, **options: Any) -> dict[str, Any]:
    """Returns the fields of a write.

    Args:
        source: The value of --input.
        **options: The fields that were given as options and arguments; None: not given.

    Raises:
        click.UsageError: If a file cannot be read, or is not JSON.
    """
    fields: dict[str, Any] = {}
    if source is not None:
        fields = _json_object(_read(source, "--input"), "--input")
    if isinstance(options.get("metadata"), str):
        text: str = options["metadata"]
        if text.startswith("@"):
            text = _read(text[1:], "--metadata")
        options["metadata"] = _json_object(text, "--metadata")
    fields.update((name, value) for name, value in options.items() if value is not None)
    return fields


def _read(path: str, option: str) -> str:
    try:
        if path == STANDARD_INPUT:
            return sys.stdin.buffer.read().decode("utf-8-sig")
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"{option}: the input is not UTF-8", click.get_current_context()) from None
    except OSError as error:
        raise click.UsageError(f"{option}: cannot read {path}: {error.strerror}", click.get_current_context()) from None


def _json_object(text: str, option: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise click.UsageError(f"{option}: the value is not valid JSON{place}", click.get_current_context()) from None
    if not isinstance(value, dict):
        raise click.UsageError(f"{option}: the value is not a JSON object", click.get_current_context())
    return value
