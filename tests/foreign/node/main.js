// Clients of the service as Node teams write them. Usage: node main.js LIBRARY CASE ADDRESS [ARGUMENTS]
// LIBRARY is grpc-js or connect-node. Each case prints one JSON object, which the Python test judges.
import { setTimeout as sleep } from "node:timers/promises";

const [library, name, address, ...args] = process.argv.slice(2);
const { connect } = await import(`./${library}.js`);
const client = connect(address);

/** Returns the outcome of a call. */
async function outcome(call) {
  try {
    await call;
    return { code: "OK" };
  } catch (error) {
    return client.failure(error);
  }
}

const cases = {
  /** Adds a user, reads it, and makes two calls that fail. */
  async calls() {
    await client.addUser({ user_id: library });
    const { user } = await client.getUser({ user_id: library });
    return {
      user_id: user.user_id ?? user.userId,
      missing: await outcome(client.getUser({ user_id: "nobody" })),
      invalid: await outcome(client.getUser({ user_id: "" })),
    };
  },

  /** Calls N times with a header of SIZE bytes. */
  async headers(size, count) {
    const outcomes = {};
    for (let i = 0; i < Number(count); i++) {
      const found = await outcome(client.listUsers({ limit: 1 }, { "x-large": "x".repeat(Number(size)) }));
      const key = [found.code, found.reason, found.field].map((part) => part ?? "").join(" ");
      outcomes[key] = (outcomes[key] ?? 0) + 1;
    }
    return outcomes;
  },

  /** Makes a call, leaves the connection alone for some seconds, and makes another call. */
  async idle(seconds) {
    const first = await outcome(client.listUsers({ limit: 1 }));
    await sleep(Number(seconds) * 1000);
    return { outcomes: [first, await outcome(client.listUsers({ limit: 1 }))] };
  },

  /** Reads the stream of all users, and works for some seconds on the first chunk. */
  async "slow-stream"(seconds) {
    let users = 0;
    const read = async () => {
      for await (const chunk of client.listUsersChunked({ chunk_size: 1000 })) {
        if (users === 0) await sleep(Number(seconds) * 1000);
        users += chunk.users.length;
      }
    };
    return { outcome: await outcome(read()), users };
  },

  /** Makes one call after the other for some seconds, without retries. */
  async steady(seconds) {
    const outcomes = {};
    const end = Date.now() + Number(seconds) * 1000;
    while (Date.now() < end) {
      const { code } = await outcome(client.listUsers({ limit: 1 }));
      outcomes[code] = (outcomes[code] ?? 0) + 1;
      await sleep(2);
    }
    return { outcomes };
  },
};

console.log(JSON.stringify(await cases[name](...args)));
process.exit(0);
