"""What stops the benchmark."""


class BenchError(Exception):
    """The benchmark cannot run, or what it measured cannot be right. The text is one line for whoever runs it."""
