"""Defines the error of the benchmark."""


class BenchError(Exception):
    """The benchmark cannot run, or a result is wrong. The text is one line for the user."""
