"""The error for settings that the service cannot start with."""


class ConfigError(Exception):
    """The service cannot start with these settings. The text is one line for the operator; the exit code is 2."""
