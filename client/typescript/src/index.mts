/**
 * The entry of ES modules. It hands on what the CommonJS build exports, so that a program that both imports and requires
 * the package has each class, and so each `instanceof`, once.
 */

export * from "./index.js";
