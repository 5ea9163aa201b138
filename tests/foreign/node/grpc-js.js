// The service through grpc-js, with the protos loaded at run time.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import { detailsOf } from "./details.js";

const PROTOS = join(import.meta.dirname, "../../../protos");

const definition = protoLoader.loadSync("userservice/v1/user_service.proto", {
  includeDirs: [PROTOS],
  keepCase: true,
});
const { UserService } = grpc.loadPackageDefinition(definition).userservice.v1;

export function connect(address) {
  const stub = new UserService(address, callerCredentials(), {
    "grpc.keepalive_time_ms": 5000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.enable_retries": 0,
  });
  const unary =
    (method) =>
    (request, headers = {}) =>
      new Promise((resolve, reject) => {
        const metadata = new grpc.Metadata();
        for (const [key, value] of Object.entries(headers)) metadata.set(key, value);
        stub[method](request, metadata, (error, response) => (error ? reject(error) : resolve(response)));
      });
  return {
    addUser: unary("AddUser"),
    getUser: unary("GetUser"),
    listUsers: unary("ListUsers"),
    listUsersChunked: (request) => stub.ListUsersChunked(request),
    failure: (error) => ({ code: grpc.status[error.code] ?? String(error), message: error.details, ...details(error.metadata) }),
  };
}

/** TLS with the files in TLS_CA, TLS_CERT and TLS_KEY, and the token in TOKEN; without them, plain text. */
function callerCredentials() {
  const { TLS_CA, TLS_CERT, TLS_KEY, TOKEN } = process.env;
  if (!TLS_CA) return grpc.credentials.createInsecure();
  const read = (path) => (path ? readFileSync(path) : null);
  const tls = grpc.credentials.createSsl(read(TLS_CA), read(TLS_KEY), read(TLS_CERT));
  if (!TOKEN) return tls;
  const header = new grpc.Metadata();
  header.set("authorization", `Bearer ${TOKEN}`);
  const token = grpc.credentials.createFromMetadataGenerator((_, done) => done(null, header));
  return grpc.credentials.combineChannelCredentials(tls, token);
}

function details(metadata) {
  const [encoded] = metadata?.get("grpc-status-details-bin") ?? [];
  return encoded ? detailsOf(encoded) : {};
}
