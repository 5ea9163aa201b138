import { randomBytes } from "node:crypto";
import { type Session, type SessionManager, type UserManager, UserServiceError } from "userservice";

export class Logins {
  constructor(
    readonly users: UserManager,
    readonly sessions: SessionManager,
  ) {}
  // After the password was checked; returns the cookie.
  async logIn(user_id: string, device: string): Promise<string> {
    const session_id = randomBytes(32).toString("base64url");
    await this.sessions.add({ user_id, session_id, ttl: 90 * 86_400, idle_ttl: 14 * 86_400, metadata: { device } });
    return new URLSearchParams({ user_id, session_id }).toString();
  }
  // With each request; undefined: the user must log in again.
  async current(cookie: string): Promise<Session | undefined> {
    const key = new URLSearchParams(cookie);
    return this.sessions.touch(key.get("user_id") ?? "", key.get("session_id") ?? "").catch((error: unknown) => {
      if (error instanceof UserServiceError && ["INVALID_ARGUMENT", "NOT_FOUND"].includes(error.code)) return undefined;
      throw error;
    });
  }
  async devices({ user_id }: Session): Promise<unknown[]> {
    return (await this.users.getSessions(user_id)).map(({ metadata }) => metadata["device"]);
  }
  logOutEverywhereElse({ user_id, session_id }: Session): Promise<number> {
    return this.sessions.revoke(user_id, { exceptSessionId: session_id });
  }
}
