/**
 * The entry point for ES modules. It re-exports the objects of the CommonJS build. A program that both imports and
 * requires the package therefore has each class only once, and `instanceof` works.
 */

export * from "./index.js";
