"""The result of a check."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of the store.

    Attributes:
        what: describes the fault; contains ids, but no personal data.
        key: the Redis key that has the fault. May contain a user_id.
    """

    what: str
    key: bytes


@dataclass(slots=True)
class Report:
    """The numbers of checked users, sessions and idempotency records, and the findings."""

    users: int = 0
    sessions: int = 0
    requests: int = 0
    findings: list[Finding] = field(default_factory=list)

    def find(self, what: str, key: bytes) -> None:
        """Adds a finding."""
        self.findings.append(Finding(what, key))
