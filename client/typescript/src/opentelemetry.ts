/**
 * Spans for the calls of a manager, with OpenTelemetry. Needs the package `@opentelemetry/api`, which the main module of
 * this package does not load.
 */

import {
  context,
  defaultTextMapSetter,
  propagation,
  SpanKind,
  SpanStatusCode,
  trace,
  type TracerProvider,
} from "@opentelemetry/api";

import type { StatusCode } from "./error_base.js";
import type { OnCall } from "./hooks.js";

// Faults of the server, or of the way to it. Other codes, such as NOT_FOUND, can be what the caller expects.
const FAULTS: ReadonlySet<StatusCode> = new Set<StatusCode>([
  "UNKNOWN",
  "DEADLINE_EXCEEDED",
  "INTERNAL",
  "UNAVAILABLE",
  "DATA_LOSS",
]);
const HOST_PORT = /^(?:https?:\/\/|dns:\/\/\/)?(\[[^\]]+\]|[^:/,]+):(\d+)\/?$/;

/**
 * Returns a hook for the option `onCall` that creates a client span for each attempt of a call.
 *
 * The span is a child of the active span. The global propagator adds the context of the span to the request. With
 * `shareReads`, the span of a shared call belongs to the trace of one of its gets.
 *
 * @param tracerProvider - Creates the tracer; default: the global provider.
 */
export function traceCalls(tracerProvider: TracerProvider = trace.getTracerProvider()): OnCall {
  const tracer = tracerProvider.getTracer("userservice");
  return ({ method, address, headers }) => {
    const [, host, port] = HOST_PORT.exec(address) ?? [];
    const span = tracer.startSpan(method, {
      kind: SpanKind.CLIENT,
      attributes: {
        "rpc.system.name": "grpc",
        "rpc.method": method,
        "server.address": host?.replace(/^\[(.*)\]$/, "$1") ?? address.replace(/^unix:/, ""),
        ...(port !== undefined && { "server.port": Number(port) }),
      },
    });
    propagation.inject(trace.setSpan(context.active(), span), headers, defaultTextMapSetter);
    return (code) => {
      span.setAttribute("rpc.status_code", code);
      if (FAULTS.has(code)) {
        span.setAttribute("error.type", code);
        span.setStatus({ code: SpanStatusCode.ERROR });
      }
      span.end();
    };
  };
}
