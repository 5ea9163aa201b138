/**
 * The language of tests/contract/cases/*.json: converts written values to real values, and compares responses with
 * them. tests/contract/README.md describes the language.
 */

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { inspect, isDeepStrictEqual } from "node:util";

import { ROOT } from "./service.js";

const CASES = join(ROOT, "tests/contract/cases");
const UUID7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** A call of a case, and its expected result. */
export interface Step {
  readonly call: string;
  readonly args?: unknown;
  readonly each?: unknown;
  readonly result?: unknown;
  readonly error?: unknown;
  readonly save?: string;
}

/** A case: a list of calls on an empty store. */
export interface Case {
  readonly file: string;
  readonly name: string;
  readonly steps: readonly Step[];
  readonly only?: { readonly drivers: readonly string[]; readonly because: string };
}

type Bag = Record<string, unknown>;

/** Reads all cases. Fails on an unknown key. */
export function loadCases(): Case[] {
  const known = { case: ["name", "only", "steps"], step: ["call", "args", "each", "result", "error", "save"] };
  return readdirSync(CASES)
    .sort()
    .flatMap((file) => {
      const { cases } = JSON.parse(readFileSync(join(CASES, file), "utf8")) as { cases: Omit<Case, "file">[] };
      for (const one of cases) {
        assertKeys(one, known.case);
        for (const step of one.steps) {
          assertKeys(step, known.step);
        }
      }
      return cases.map((one) => ({ ...one, file: file.replace(".json", "") }));
    });
}

function assertKeys(object: object, known: readonly string[]): void {
  assert.deepEqual(
    Object.keys(object).filter((key) => !known.includes(key)),
    [],
    JSON.stringify(object),
  );
}

/** The names that a case has saved so far. `$uuid.NAME` is a new UUID for each name and case. */
export class Scope {
  readonly saved = new Map<string, unknown>();
  readonly #uuids = new Map<string, string>();

  evaluate(written: unknown): unknown {
    if (typeof written === "string") {
      return this.#text(written);
    }
    if (Array.isArray(written)) {
      return written.map((item) => this.evaluate(item));
    }
    if (isBag(written)) {
      const operator = operatorOf(written);
      return operator ? make(operator, this.evaluate(written[operator])) : mapValues(written, (v) => this.evaluate(v));
    }
    return written;
  }

  #text(written: string): unknown {
    if (written.startsWith("$$") || !written.startsWith("$")) {
      return written.replace(/^\$\$/, "$");
    }
    const [name = "", ...path] = written.slice(1).split(".");
    if (name === "uuid") {
      const key = path[0] ?? "";
      this.#uuids.set(key, this.#uuids.get(key) ?? randomUUID());
      return this.#uuids.get(key);
    }
    assert.ok(this.saved.has(name), `nothing is saved as ${name}`);
    return path.reduce((value, part) => (value as Bag)[part], this.saved.get(name));
  }
}

function isBag(value: unknown): value is Bag {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

/** Sets a property; `__proto__` is an ordinary key. */
function mapValues(bag: Bag, change: (value: unknown) => unknown): Bag {
  return Object.fromEntries(Object.entries(bag).map(([key, value]) => [key, change(value)]));
}

function operatorOf(written: Bag): string | undefined {
  const [key, ...others] = Object.keys(written);
  return key?.startsWith("$") && others.length === 0 ? key : undefined;
}

function nest(kind: string, levels: number): unknown {
  let value: unknown = kind === "object" ? {} : [];
  for (let level = 1; level < levels; level++) {
    value = kind === "object" ? { k: value } : [value];
  }
  return value;
}

const MAKERS: Readonly<Record<string, (operand: never) => unknown>> = {
  $repeat: ([text, times]: [string, number]) => text.repeat(times),
  $concat: (parts: string[]) => parts.join(""),
  $series: ([stem, count]: [string, number]) => Array.from({ length: count }, (_, number) => `${stem}${number}`),
  $nest: ([kind, levels]: [string, number]) => nest(kind, levels),
  $number: (text: string) => Number(text),
  $integer: (text: string) => BigInt(text),
  $in: (seconds: number) => new Date(Date.now() + seconds * 1e3),
};

/** Returns the value of an operator; a matcher is returned unchanged, because `match` evaluates it. */
function make(operator: string, operand: unknown): unknown {
  return MAKERS[operator] ? MAKERS[operator](operand as never) : { [operator]: operand };
}

/**
 * Compares a response with the expected response.
 *
 * Of an object, only the expected keys are compared; of a list, every element. `metadata` is compared completely.
 */
export function match(expected: unknown, actual: unknown, where = "answer"): void {
  if (isBag(expected)) {
    const operator = operatorOf(expected);
    if (operator) {
      judge(operator, expected[operator], actual, where);
      return;
    }
    assert.ok(isBag(actual), `${where}: expected an object, got ${short(actual)}`);
    for (const [key, value] of Object.entries(expected)) {
      assert.ok(Object.hasOwn(actual, key), `${where}.${key} is missing`);
      if (key === "metadata" && !(isBag(value) && operatorOf(value))) {
        same(value, actual[key], `${where}.metadata`);
      } else {
        match(value, actual[key], `${where}.${key}`);
      }
    }
  } else if (Array.isArray(expected)) {
    const isLong = Array.isArray(actual) && actual.length === expected.length;
    assert.ok(isLong, `${where}: expected ${expected.length} elements, got ${short(actual)}`);
    expected.forEach((one, index) => {
      match(one, (actual as unknown[])[index], `${where}[${index}]`);
    });
  } else {
    same(expected, actual, where);
  }
}

const MATCHERS: Readonly<Record<string, (operand: never, actual: never) => boolean>> = {
  $regex: (pattern: string, actual: string) => new RegExp(pattern, "u").test(actual),
  $uuid7: (_: unknown, actual: string) => UUID7.test(actual),
  $not: (other: unknown, actual: unknown) => !isDeepStrictEqual(other, actual),
  $above: (bound: number, actual: number) => actual > bound,
  $most: (bound: number, actual: number) => actual <= bound,
  // A time at most the given seconds ago. Both clocks are of one machine, so no time is in the future.
  $now: (seconds: number, actual: string) => {
    const age = (Date.now() - Date.parse(actual)) / 1e3;
    return age >= -1 && age <= seconds;
  },
  // The time in the given number of seconds, or up to 30 seconds earlier.
  $ahead: (seconds: number, actual: string) => {
    const late = (Date.parse(actual) - Date.now()) / 1e3 - seconds;
    return late >= -30 && late <= 1;
  },
  $count: (length: number, actual: unknown[]) => actual.length === length,
};

function judge(operator: string, operand: unknown, actual: unknown, where: string): void {
  const matcher = MATCHERS[operator];
  assert.ok(matcher, `the case uses ${operator}, which nobody knows`);
  assert.ok(
    matcher(operand as never, actual as never),
    `${where}: ${operator} ${short(operand)}, got ${short(actual)}`,
  );
}

function same(expected: unknown, actual: unknown, where: string): void {
  assert.ok(isDeepStrictEqual(expected, actual), `${where}: expected ${short(expected)}, got ${short(actual)}`);
}

function short(value: unknown): string {
  const text = inspect(value, { depth: null });
  return text.length <= 400 ? text : `${text.slice(0, 200)} … ${text.slice(-200)}`;
}

/** An error in the form of the cases. */
export interface CaseError {
  readonly class: string;
  readonly code: string;
  readonly reason: string;
  readonly violations: readonly { readonly field: string; readonly description: string }[];
}

/** Compares an error with {class, code, reason, violations}. */
export function matchError(expected: unknown, actual: CaseError): void {
  assert.ok(isBag(expected));
  assertKeys(expected, ["class", "code", "reason", "violations"]);
  const { violations, ...rest } = expected;
  match(rest, actual, "error");
  if (violations !== undefined) {
    const found = new Map<string, string>();
    for (const { field, description } of actual.violations) {
      // A client may report a path inside metadata.
      const place = /^metadata[.[]/.test(field) ? "metadata" : field;
      found.set(place, `${found.get(place) ?? ""} ${description}`);
    }
    const wanted = violations as { field: string; mentions?: string }[];
    same(wanted.map(({ field }) => field).sort(), [...found.keys()].sort(), "the fields of error.violations");
    for (const { field, mentions = "" } of wanted) {
      assert.ok(found.get(field)?.includes(mentions), `${field} should mention ${mentions}: ${found.get(field)}`);
    }
  }
}
