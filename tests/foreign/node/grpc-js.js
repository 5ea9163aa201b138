// The service through grpc-js, with the protos loaded at run time.
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
  const stub = new UserService(address, grpc.credentials.createInsecure(), {
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

function details(metadata) {
  const [encoded] = metadata?.get("grpc-status-details-bin") ?? [];
  return encoded ? detailsOf(encoded) : {};
}
