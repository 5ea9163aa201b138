/** The entry point of the adapter for OpenTelemetry for ES modules; see `index.mts`. */

export * from "./opentelemetry.js";
