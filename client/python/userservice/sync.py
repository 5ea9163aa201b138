"""`SyncUserManager` and `SyncSessionManager`: the managers for blocking programs."""

from userservice._sync.session_manager import SyncSessionManager
from userservice._sync.user_manager import SyncUserManager

__all__ = ["SyncSessionManager", "SyncUserManager"]
