// An HTTP service on top of the User service.
//
// Run: npm --prefix ../../client/typescript ci && npm --prefix ../../client/typescript run build && npm install && npm start
//
// GET /users/ID returns a user, POST /users adds one, GET /count streams all users and counts them.
import { createServer } from "node:http";

import { UserManager, UserServiceError } from "userservice";

const STATUS_BY_CODE = {
    INVALID_ARGUMENT: 422,
    NOT_FOUND: 404,
    ALREADY_EXISTS: 409,
    RESOURCE_EXHAUSTED: 503,
    UNAVAILABLE: 503,
    DEADLINE_EXCEEDED: 504,
};
const MAX_BODY_BYTES = 100_000;

// All requests share one manager. It opens its connection at the first call and retries while the service restarts.
// Address, token and TLS files come from the environment (USERSERVICE_ADDRESS, USERSERVICE_TOKEN_FILE, USERSERVICE_CA …).
const users = UserManager.fromEnv();

/** An error of the HTTP request. */
class RequestError extends Error {
    constructor(status, message) {
        super(message);
        this.status = status;
    }
}

async function body(request) {
    const parts = [];
    let size = 0;
    for await (const part of request) {
        size += part.length;
        if (size <= MAX_BODY_BYTES) parts.push(part);
    }
    // Only now: leaving the loop early closes the connection before the response is sent.
    if (size > MAX_BODY_BYTES) throw new RequestError(413, `the body exceeds ${MAX_BODY_BYTES} bytes`);
    try {
        return JSON.parse(Buffer.concat(parts).toString());
    } catch {
        throw new RequestError(400, "the body is not JSON");
    }
}

function decoded(text) {
    try {
        return decodeURIComponent(text);
    } catch {
        throw new RequestError(400, "the path is not valid percent-encoding");
    }
}

async function answer(request) {
    const [path] = request.url.split("?");
    if (request.method === "POST" && path === "/users") return [201, await users.add(await body(request))];
    if (request.method === "GET" && path.startsWith("/users/")) {
        return [200, await users.get(decoded(path.slice("/users/".length)))];
    }
    if (request.method === "GET" && path === "/count") {
        let count = 0;
        for await (const chunk of users.listChunked(1000)) count += chunk.length;
        return [200, { count }];
    }
    throw new RequestError(404, "no such page");
}

function failure(error) {
    if (error instanceof RequestError) return [error.status, { error: error.message }];
    if (error instanceof UserServiceError) {
        const content = { error: error.reason || error.code, fields: error.violations };
        return [STATUS_BY_CODE[error.code] ?? 500, content];
    }
    console.error(error);
    return [500, { error: "internal error" }];
}

const server = createServer(async (request, response) => {
    const [status, content] = await answer(request).catch(failure);
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(content));
});

server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () => {
    console.log(`listening on ${server.address().port}`);
});

// Running requests finish before the manager is closed.
process.once("SIGTERM", () => {
    server.close(() => users.close());
});
