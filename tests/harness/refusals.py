"""A service that must not start."""

from harness.services import Service


def refusal_of(*arguments: str, redis_url: str) -> str:
    """Starts a service that must not start, and returns its error line."""
    with Service(*arguments, redis_url=redis_url, wait=False) as service:
        assert service.wait(30) == 2, service.stderr
        [line] = service.stderr
    assert line.startswith("userservice: error: ")
    assert service.stdout == []
    return line
