// ListUsersChunked through several libraries, reading user_id of every user.
//
//   npm run build && cd bench/libraries && npm install && node compare.js ADDRESS [CHUNK_SIZE [ROUNDS]]
//
// The ways take turns, so that whatever else the machine does hits all alike. Printed are the medians of the rounds.
import { clone, create, createFileRegistry, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FieldDescriptorProto_Type, FileDescriptorProtoSchema, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import grpc from "@grpc/grpc-js";
import { createChannel, createClient as createNiceClient } from "nice-grpc";

import { UserManager } from "../../dist/index.js";
import * as generated from "../../dist/gen/userservice/v1/user_service_pb.js";

const [address, chunkSizeText = "1000", rounds = "7"] = process.argv.slice(2);
const chunkSize = Number(chunkSizeText);
const RESPONSE = "userservice.v1.ListUsersChunkedResponse";
const PATH = "/userservice.v1.UserService/ListUsersChunked";
const request = create(generated.ListUsersChunkedRequestSchema, { chunkSize });
const encodedRequest = Buffer.from(toBinary(generated.ListUsersChunkedRequestSchema, request));

/** The generated descriptions, with one field of one message changed to bytes. */
function withBytes(message, field) {
  const files = [];
  const collect = (file) => {
    file.dependencies.forEach(collect);
    files.push(clone(FileDescriptorProtoSchema, file.proto));
  };
  collect(generated.file_userservice_v1_user_service);
  const changed = files.flatMap((file) => file.messageType).find(({ name }) => name === message);
  const target = changed.field.find(({ name }) => name === field);
  target.type = FieldDescriptorProto_Type.BYTES;
  target.typeName = "";
  // The descriptions of well-known types come with short names.
  const named = files.map((file) => [file.name.replace(/(\.proto)?$/, ".proto"), file]);
  const byName = new Map(named.map(([name, file]) => [name, Object.assign(file, { name })]));
  const file = [...byName.values()];
  return createFileRegistry(create(FileDescriptorSetSchema, { file })).getMessage(RESPONSE);
}

const whole = generated.ListUsersChunkedResponseSchema;
const metadataAsBytes = withBytes("User", "metadata");
const usersAsBytes = withBytes("ListUsersChunkedResponse", "users");

const connect = createClient(generated.UserService, createGrpcTransport({ baseUrl: `http://${address}` }));
const client = new grpc.Client(address, grpc.credentials.createInsecure());
const bytes = (message) => message;
const definition = { path: PATH, requestStream: false, responseStream: true, options: {} };
const serializers = { requestSerialize: bytes, requestDeserialize: bytes, responseSerialize: bytes };
const decode = (message) => fromBinary(whole, message);
const nice = createNiceClient(
  { list: { ...definition, ...serializers, responseDeserialize: decode } },
  createChannel(address),
);
const manager = new UserManager(address);

const ways = {
  "connect-node, whole messages": () => connect.listUsersChunked({ chunkSize }),
  "nice-grpc, whole messages": () => nice.list(encodedRequest),
  "grpc-js, whole messages": () => client.makeServerStreamRequest(PATH, bytes, decode, encodedRequest),
  "grpc-js, metadata as bytes": () =>
    client.makeServerStreamRequest(PATH, bytes, (message) => fromBinary(metadataAsBytes, message), encodedRequest),
  "grpc-js, users as bytes, none read": () =>
    client.makeServerStreamRequest(PATH, bytes, (message) => fromBinary(usersAsBytes, message), encodedRequest),
  "this package": () => manager.listChunked(chunkSize),
};

const results = Object.fromEntries(Object.keys(ways).map((name) => [name, []]));
for (let round = 0; round <= Number(rounds); round++) {
  for (const [name, stream] of Object.entries(ways)) {
    const cpuBefore = process.cpuUsage();
    const start = performance.now();
    let users = 0;
    let characters = 0;
    for await (const chunk of stream()) {
      const list = chunk.users ?? chunk;
      users += list.length;
      for (const user of list) {
        characters += (user.user_id ?? user.userId ?? "").length;
      }
    }
    const seconds = (performance.now() - start) / 1e3;
    const { user, system } = process.cpuUsage(cpuBefore);
    // The first round warms up.
    if (round > 0) {
      results[name].push({ rate: users / seconds, cpu: (user + system) / users, characters });
    }
  }
}
const median = (numbers) => numbers.sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
for (const [name, runs] of Object.entries(results)) {
  const rate = Math.round(median(runs.map((run) => run.rate)) / 1000);
  const cpu = median(runs.map((run) => run.cpu)).toFixed(2);
  console.log(`${name.padEnd(36)} ${String(rate).padStart(5)} thousand users/s ${cpu.padStart(6)} µs of CPU a user`);
}
process.exit(0);
