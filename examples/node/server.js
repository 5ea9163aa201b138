// An HTTP service on top of the User service.
//
// Run: npm install && npm start
// GET /users/ID returns a user, POST /users adds one, GET /count streams all users and counts them.
import { createServer } from "node:http";

import { UserManager, UserServiceError } from "userservice";

const STATUS_BY_REASON = { INVALID_FIELD: 422, USER_NOT_FOUND: 404, USER_ALREADY_EXISTS: 409 };
const MAX_BODY_BYTES = 100_000;

// All requests share one manager. It opens its connection at the first call and retries while the service restarts.
const users = new UserManager(process.env.USERSERVICE_ADDRESS ?? "localhost:50051");

async function body(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > MAX_BODY_BYTES) throw new RangeError("the body is too large");
    parts.push(part);
  }
  return JSON.parse(Buffer.concat(parts).toString());
}

async function answer(request) {
  const { pathname } = new URL(request.url, "http://localhost");
  if (request.method === "POST" && pathname === "/users") {
    const user = await users.add(await body(request));
    return [201, { user_id: user.user_id, created_at: user.created_at }];
  }
  if (request.method === "GET" && pathname.startsWith("/users/")) {
    const user = await users.get(decodeURIComponent(pathname.slice("/users/".length)));
    return [200, { user_id: user.user_id, email: user.email, metadata: user.metadata }];
  }
  if (request.method === "GET" && pathname === "/count") {
    let count = 0;
    for await (const chunk of users.listChunked(1000)) count += chunk.length;
    return [200, { count }];
  }
  return [404, { error: "no such page" }];
}

function failure(error) {
  if (!(error instanceof UserServiceError)) return [400, { error: "the request cannot be read" }];
  const status = STATUS_BY_REASON[error.reason] ?? (error.code === "UNAVAILABLE" ? 503 : 500);
  return [status, { error: error.reason || error.code }];
}

const server = createServer(async (request, response) => {
  const [status, content] = await answer(request).catch(failure);
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(content));
});

server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () => {
  console.log(`listening on ${server.address().port}`);
});

process.once("SIGTERM", async () => {
  server.close();
  await users.close();
});
