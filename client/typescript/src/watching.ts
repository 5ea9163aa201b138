/** Reads the stream of changes, and resumes the stream after a lost connection or a restart of the server. */

import type { Change, ChangeKind, Changes, WatchOptions } from "./changes.js";
import type { CallOptions, Connection } from "./connection.js";
import {
  CredentialsInvalidError,
  DeadlineExceededError,
  InternalError,
  UnavailableError,
  WatchTokenExpiredError,
} from "./errors.js";
import { UserService } from "./gen/userservice/v1/user_service_pb.js";
import {
  ChangeKind as Kind,
  ChangeSchema,
  WatchUsersRequestSchema,
  WatchUsersResponseSchema,
} from "./gen/userservice/v1/user_watch_pb.js";
import type { Session, User } from "./models.js";
import { readSession, readUser } from "./records.js";
import { encodeRequest, reject } from "./requests.js";
import { Attempts, worthRetrying } from "./retry.js";
import type { Rpc } from "./rpc.js";
import { lengthDelimited, MalformedError, WireReader } from "./wire.js";

const DEFAULT_HEARTBEAT_SECONDS = 15;
/** If a message is this much later than the heartbeat, the stream counts as lost. */
const LATE_MS = 5000;

const CHANGES = lengthDelimited(WatchUsersResponseSchema.field.changes.number);
const RESUME_TOKEN = lengthDelimited(WatchUsersResponseSchema.field.resumeToken.number);
const SNAPSHOT_COMPLETE = WatchUsersResponseSchema.field.snapshotComplete.number << 3;
const USER = lengthDelimited(ChangeSchema.field.user.number);
const SESSION = lengthDelimited(ChangeSchema.field.session.number);
const KIND = ChangeSchema.field.kind.number << 3;
const REVISION = ChangeSchema.field.revision.number << 3;
const USER_ID = lengthDelimited(ChangeSchema.field.userId.number);
const SESSION_ID = lengthDelimited(ChangeSchema.field.sessionId.number);
const ID = ChangeSchema.field.id.number << 3;

const KINDS: ReadonlyMap<number, ChangeKind> = new Map(
  Object.entries(Kind).flatMap(([name, number]) =>
    typeof number === "number" && number !== Kind.UNSPECIFIED ? [[number, name as ChangeKind]] : [],
  ),
);

/** Reads the messages of one `watch` call, one at a time. */
export class WatchReader {
  readonly #connection: Connection;
  readonly #fields: { readonly kinds: unknown; readonly view: unknown; readonly heartbeat_seconds: unknown };
  readonly #options: CallOptions;
  readonly #patienceMs: number;
  readonly #restarts: boolean;
  #start: { readonly now?: true; readonly snapshot?: true; readonly resume_token?: string };
  #request: Buffer;
  #rpc: Rpc | undefined;
  #restarted = false;

  /**
   * @param connection - The connection to read from.
   * @param options - The options of the watch.
   * @throws InvalidArgumentError if an option is invalid.
   */
  constructor(connection: Connection, options: WatchOptions) {
    const { start = "now", resumeToken, kinds = ["USERS"], view, onExpired = "raise", timeoutMs, signal } = options;
    const { heartbeatSeconds = DEFAULT_HEARTBEAT_SECONDS } = options;
    check("start", start, ["now", "snapshot"]);
    check("onExpired", onExpired, ["raise", "snapshot"]);
    this.#connection = connection;
    this.#options = { timeoutMs, signal };
    this.#restarts = onExpired === "snapshot";
    this.#fields = { kinds, view, heartbeat_seconds: heartbeatSeconds };
    this.#start =
      resumeToken !== undefined
        ? { resume_token: resumeToken }
        : start === "snapshot"
          ? { snapshot: true }
          : { now: true };
    this.#request = this.#encode();
    const heartbeat = heartbeatSeconds === 0 ? DEFAULT_HEARTBEAT_SECONDS : heartbeatSeconds; // as the service does
    this.#patienceMs = heartbeat * 1000 + LATE_MS;
  }

  /**
   * Returns the changes of the next message.
   *
   * @throws UserServiceError if the service was unavailable until the timeout, or rejected the request; the signal's
   *   reason, if the signal is aborted.
   */
  async next(): Promise<Changes> {
    if (this.#rpc !== undefined) {
      try {
        return this.#accept(await this.#readInTime(this.#rpc, this.#patienceMs));
      } catch (error) {
        this.cancel();
        this.#options.signal?.throwIfAborted();
        this.#checkResumable(error);
      }
    }
    const attempts = this.#connection.attempts(this.#options);
    for (;;) {
      try {
        attempts.signal?.throwIfAborted();
        this.#rpc ??= await this.#open(attempts);
        return this.#accept(await this.#readInTime(this.#rpc, attempts.remaining));
      } catch (error) {
        this.cancel();
        if (error instanceof WatchTokenExpiredError) {
          this.#restart(error);
        } else {
          await attempts.pause(error);
        }
      }
    }
  }

  /** Cancels the running RPC, if there is one. A caller that stops reading must call `cancel`, or the RPC continues. */
  cancel(): void {
    this.#rpc?.cancel(undefined);
    this.#rpc = undefined;
  }

  /** Throws the error that ended a stream, unless the watch can be resumed or started again. */
  #checkResumable(error: unknown): void {
    if (error instanceof WatchTokenExpiredError) {
      this.#restart(error);
    } else if (
      !worthRetrying(error) &&
      !(error instanceof DeadlineExceededError) &&
      !(error instanceof CredentialsInvalidError)
    ) {
      throw error;
    }
  }

  /** Starts again with a snapshot; throws the error unless `onExpired` is "snapshot". */
  #restart(error: WatchTokenExpiredError): void {
    if (!this.#restarts || this.#start.snapshot) {
      throw error;
    }
    this.#start = { snapshot: true };
    this.#request = this.#encode();
    this.#restarted = true;
  }

  async #open({ remaining, signal }: Attempts): Promise<Rpc> {
    const metadata = await this.#connection.headers(remaining, signal);
    return this.#connection.open(UserService.method.watchUsers, this.#request, metadata, Infinity, signal);
  }

  #encode(): Buffer {
    return encodeRequest(WatchUsersRequestSchema, { ...this.#start, ...this.#fields });
  }

  #accept(encoded: Buffer): Changes {
    const message = decodeChanges(encoded);
    const restarted = this.#restarted;
    this.#restarted = false;
    // If this stream is cut, the next stream starts here.
    this.#start = { resume_token: message.resume_token };
    this.#request = this.#encode();
    return { ...message, restarted };
  }

  async #readInTime(rpc: Rpc, timeoutMs: number): Promise<Buffer> {
    const timer = setTimeout(() => {
      rpc.cancel(this.#connection.outOfTime("no message of the watch arrived in time"));
    }, timeoutMs);
    try {
      const message = await rpc.read();
      if (message === undefined) {
        throw new UnavailableError("the stream of changes ended");
      }
      return message;
    } finally {
      clearTimeout(timer);
    }
  }
}

function check(field: string, value: string, allowed: readonly string[]): void {
  if (!allowed.includes(value)) {
    reject([{ field, description: `must be ${allowed.join(" or ")}` }]);
  }
}

/**
 * Decodes a message of a watch.
 *
 * @throws InternalError if the bytes are not a valid message.
 */
export function decodeChanges(encoded: Buffer): Omit<Changes, "restarted"> {
  const changes: Change[] = [];
  let resume_token = "";
  let snapshot_complete = false;
  try {
    const reader = new WireReader(encoded);
    while (reader.pos < reader.end) {
      const tag = reader.uint32();
      if (tag === CHANGES) {
        changes.push(reader.inside(readChange));
      } else if (tag === RESUME_TOKEN) {
        resume_token = reader.text();
      } else if (tag === SNAPSHOT_COMPLETE) {
        snapshot_complete = reader.int64() !== 0;
      } else {
        reader.skip(tag);
      }
    }
    if (resume_token === "") {
      throw new MalformedError("a message without a resume_token");
    }
  } catch (error) {
    throw new InternalError("cannot decode the response of the service", { cause: error });
  }
  return { changes, resume_token, snapshot_complete };
}

function readChange(reader: WireReader): Change {
  let user: User | undefined;
  let session: Session | undefined;
  let number = 0;
  let revision = 0;
  let user_id = "";
  let session_id: string | undefined;
  let id = 0;
  while (reader.pos < reader.end) {
    const tag = reader.uint32();
    switch (tag) {
      case USER:
        user = reader.inside(readUser);
        break;
      case SESSION:
        session = reader.inside(readSession);
        break;
      case KIND:
        number = reader.int64();
        break;
      case REVISION:
        revision = reader.int64();
        break;
      case USER_ID:
        user_id = reader.text();
        break;
      case SESSION_ID:
        session_id = reader.text();
        break;
      case ID:
        id = reader.int64();
        break;
      default:
        reader.skip(tag);
    }
  }
  const kind = KINDS.get(number);
  if (kind === undefined) {
    throw new MalformedError("a change of an unknown kind");
  }
  return {
    kind,
    revision,
    user_id: user?.user_id ?? session?.user_id ?? user_id,
    session_id: session?.session_id ?? session_id,
    id: user?.id ?? session?.id ?? id,
    user,
    session,
  };
}
