"""The changes that `UserManager.watch` yields."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from userservice.models import Session, User

WatchKind: TypeAlias = Literal["USERS", "SESSIONS"]
"""The records whose changes a watch reports."""

OnExpired: TypeAlias = Literal["raise", "snapshot"]
"""What a watch does if changes were lost: raise WatchTokenExpiredError, or start again with a snapshot."""

ChangeKind: TypeAlias = Literal[
    "USER_EXISTS",
    "USER_ADDED",
    "USER_UPDATED",
    "USER_DELETED",
    "SESSION_EXISTS",
    "SESSION_ADDED",
    "SESSION_UPDATED",
    "SESSION_DELETED",
    "SESSION_EXPIRED",
]
"""What happened to a record. USER_EXISTS and SESSION_EXISTS are parts of a snapshot.

USER_DELETED also stands for the deletion of all sessions of the user.
"""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a user or session."""

    kind: ChangeKind
    """What happened."""

    revision: int
    """Number that increases with every change of a user and its sessions; 0 in a snapshot."""

    user_id: str
    """user_id of the user, or of the user of the session."""

    session_id: str | None
    """session_id of the session; None for a change of a user."""

    id: int
    """id of the user or session."""

    user: User | None
    """The user in its present state; None if it was deleted, and for sessions."""

    session: Session | None
    """The session in its present state; None if it was removed, and for users."""

    def to_dict(self, mode: Literal["python", "json"] = "python") -> dict[str, Any]:
        """Returns the fields that have a value, by name; `mode` as in `User.to_dict`."""
        values: dict[str, Any] = {
            "kind": self.kind,
            "revision": self.revision,
            "user_id": self.user_id,
            "session_id": self.session_id,
            "id": self.id,
        }
        if self.user is not None:
            values["user"] = self.user.to_dict(mode)
        if self.session is not None:
            values["session"] = self.session.to_dict(mode)
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self) -> str:
        """Returns `to_dict(mode="json")` as JSON text on one line."""
        return json.dumps(self.to_dict(mode="json"), ensure_ascii=False, allow_nan=False)


class Changes(list[Change]):
    """The changes of one message of a watch; empty in a heartbeat."""

    def __init__(
        self, changes: Iterable[Change] = (), *, resume_token: str, snapshot_complete: bool, restarted: bool = False
    ) -> None:
        """Creates the list."""
        super().__init__(changes)
        self.resume_token = resume_token
        """Resumes the watch after these changes. Store it after they are processed."""
        self.snapshot_complete = snapshot_complete
        """Whether the snapshot is complete, or the watch has none."""
        self.restarted = restarted
        """Whether the watch starts again with a snapshot here, because changes were lost (`on_expired="snapshot"`).

        Records that the snapshot does not contain were deleted.
        """
