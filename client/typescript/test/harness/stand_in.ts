/** A gRPC server with responses that the test defines, for behaviour that the real service does not have. */

import { create, type DescMessage, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { anyPack, type DurationSchema } from "@bufbuild/protobuf/wkt";
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerWritableStream,
  status,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";

import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "../../dist/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../../dist/gen/google/rpc/status_pb.js";
import { SessionService } from "../../dist/gen/userservice/v1/session_service_pb.js";
import { UserService } from "../../dist/gen/userservice/v1/user_service_pb.js";

/** A call on the server's side. */
export interface Received {
  readonly method: string;
  /** The encoded request. */
  readonly request: Buffer;
  readonly metadata: Metadata;
  /** The deadline of the client. */
  readonly deadline: Date | number;
  /** Sends one message. */
  readonly send: (message: Uint8Array) => void;
  /** Ends the call with OK. */
  readonly end: () => void;
  /** Ends the call with an error. */
  readonly fail: (failure: Failure) => void;
  /** Whether the client cancelled the call. */
  readonly isCancelled: () => boolean;
}

/** An error in the form that the service sends. */
export interface Failure {
  readonly code: keyof typeof status;
  readonly message?: string;
  readonly reason?: string;
  readonly domain?: string;
  readonly requestId?: string;
  readonly retryDelay?: { seconds: bigint; nanos: number };
  readonly violations?: { field: string; description: string }[];
}

/** A server for the methods of both services. */
export class StandIn implements AsyncDisposable {
  /** The calls so far. */
  readonly received: Received[] = [];
  readonly #server = new Server();
  #port = 0;

  private constructor(answer: (call: Received, number: number) => void) {
    for (const service of [UserService, SessionService]) {
      const entries = service.methods.map(({ name, parent }) => [
        name,
        {
          path: `/${parent.typeName}/${name}`,
          requestStream: false as const,
          // A unary call is a stream of one message.
          responseStream: true as const,
          requestSerialize: (message: Buffer) => message,
          requestDeserialize: (message: Buffer) => message,
          responseSerialize: (message: Uint8Array) => Buffer.from(message),
          responseDeserialize: (message: Buffer) => message,
        },
      ]);
      const handlers = service.methods.map(({ name }) => [
        name,
        (call: ServerWritableStream<Buffer, Uint8Array>) => {
          const received: Received = {
            method: name,
            request: call.request,
            metadata: call.metadata,
            deadline: call.getDeadline(),
            send: (message) => call.write(message),
            end: () => {
              call.end();
            },
            fail: (failure) => call.emit("error", statusOf(failure)),
            isCancelled: () => call.cancelled,
          };
          this.received.push(received);
          answer(received, this.received.length);
        },
      ]);
      this.#server.addService(
        Object.fromEntries(entries) as never,
        Object.fromEntries(handlers) as UntypedServiceImplementation,
      );
    }
  }

  /**
   * Starts a server on a free port.
   *
   * @param answer - The function that responds; it is called with each call and its number, starting at 1.
   */
  static async start(answer: (call: Received, number: number) => void): Promise<StandIn> {
    const standIn = new StandIn(answer);
    standIn.#port = await new Promise<number>((resolve, reject) => {
      standIn.#server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => {
        if (error) {
          reject(error);
        } else {
          resolve(port);
        }
      });
    });
    return standIn;
  }

  /** The address of the server, as host:port. */
  get address(): string {
    return `127.0.0.1:${this.#port}`;
  }

  /** The requests so far, decoded. */
  requests<Schema extends DescMessage>(schema: Schema): MessageShape<Schema>[] {
    return this.received.map(({ request }) => fromBinary(schema, request));
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#server.forceShutdown();
    return Promise.resolve();
  }
}

function statusOf(failure: Failure): object {
  const { code, message = "it failed", reason, domain = "userservice", requestId, retryDelay, violations } = failure;
  const details = [
    reason && anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason, domain })),
    requestId && anyPack(RequestInfoSchema, create(RequestInfoSchema, { requestId })),
    retryDelay &&
      anyPack(
        RetryInfoSchema,
        create(RetryInfoSchema, { retryDelay: retryDelay as MessageShape<typeof DurationSchema> }),
      ),
    violations && anyPack(BadRequestSchema, create(BadRequestSchema, { fieldViolations: violations })),
  ].filter((detail) => typeof detail === "object");
  const metadata = new Metadata();
  if (details.length > 0) {
    const encoded = toBinary(StatusSchema, create(StatusSchema, { code: status[code], message, details }));
    metadata.set("grpc-status-details-bin", Buffer.from(encoded));
  }
  return { code: status[code], details: message, metadata };
}
