from datetime import timedelta
from secrets import token_urlsafe
from urllib.parse import parse_qsl, urlencode

from userservice import AddSessionFields, Session, SessionManager, UserManager, UserServiceError


class Logins:
    def __init__(self, users: UserManager, sessions: SessionManager) -> None:
        self.users, self.sessions = users, sessions

    async def log_in(self, user_id: str, device: str) -> str:  # after the password was checked; returns the cookie
        key = AddSessionFields(user_id=user_id, session_id=token_urlsafe(32))
        await self.sessions.add(key, ttl=timedelta(days=90), idle_ttl=timedelta(days=14), metadata={"device": device})
        return urlencode(key)

    async def current(self, cookie: str) -> Session | None:  # with each request; None: the user must log in again
        key = dict(parse_qsl(cookie))
        try:
            return await self.sessions.touch(key.get("user_id", ""), key.get("session_id", ""))
        except UserServiceError as error:
            if error.code.name in ("INVALID_ARGUMENT", "NOT_FOUND"):
                return None
            raise

    async def devices(self, session: Session) -> list[str]:
        return [each.metadata["device"] for each in await self.users.get_sessions(session.user_id)]

    async def log_out_everywhere_else(self, session: Session) -> int:
        return await self.sessions.revoke(session.user_id, except_session_id=session.session_id)
