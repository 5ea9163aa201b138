"""Defines the error of load generators."""


class LoadError(Exception):
    """A load generator cannot run, or the service did not respond as expected. The text is one line."""
