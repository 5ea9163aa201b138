"""Defines the error for invalid settings."""


class ConfigError(Exception):
    """The service cannot start with its settings. The text is one line for the operator; the exit code is 2."""
