/**
 * The values of the wire: what a key of a message may hold.
 *
 * Knows msgpack's types and the limits of SPEC.md, but no message. A kind says whether it accepts a value, and in words
 * (`expected`) what it does accept; error messages use the words of SPEC.md's tables.
 *
 * Integers of 64 bits: what a number holds exactly (up to 2^53-1) is a number, and what it does not is a bigint. So
 * `===` and `<` mean what they say, and nothing is rounded in silence.
 */

export const LEVELS = ["normal", "low", "medium", "critical"] as const;
export const CLASSES = ["cached", "background", "service", "perceptible", "foreground", "system"] as const;
export const OWN_CLASSES = ["cached", "background", "service", "perceptible", "foreground"] as const;
export const UNITS = ["process", "tree", "cgroup"] as const;
export const ANSWERS = ["done", "working", "nothing"] as const;
export const SCOPES = ["self", "all"] as const;
export const PROPAGATIONS = ["local", "default", "hierarchy"] as const;

/** How short memory is, in this order. */
export type Level = (typeof LEVELS)[number];
/** How much the user would miss a program, the first to go first. */
export type AppClass = (typeof CLASSES)[number];
/** The classes that a program may ask for itself. */
export type OwnClass = (typeof OWN_CLASSES)[number];
/** What dies together. */
export type Unit = (typeof UNITS)[number];
/** What a program makes of a notice: freed what it could; needs longer; has nothing to free. */
export type Answer = (typeof ANSWERS)[number];
/** Who is told of a rehearsal. */
export type Scope = (typeof SCOPES)[number];
/** Whose levels below a domain are heard: nobody's, those that nobody nearer hears of, or all. */
export type Propagation = (typeof PROPAGATIONS)[number];
/** A whole number of up to 64 bits: a number up to 2^53-1, and beyond that a bigint. */
export type Integer = number | bigint;
/** Anything that the wire can carry. */
export type Value = null | boolean | Integer | string | Uint8Array | Value[] | { [key: string]: Value };
/** A result for people and tools: its keys are those of SPEC.md, and any of them may be absent (Q-1). */
export type Result = { readonly [key: string]: Value };

export const MAX_FRAME_BYTES = 65_536;
export const MAX_ID = 2 ** 32 - 1;
export const MAX_DEPTH = 32;
export const MAX_ITEMS = 1024;

const SHOWN_CHARS = 32;

/** One sort of value. */
export interface Kind {
  /** What is accepted, in words, as SPEC.md has them. */
  readonly expected: string;
  accepts(value: unknown): boolean;
}

/** A whole number from `least` up to and including `most`. */
export function integer(least: Integer, most: Integer, mostInWords: string): Kind {
  return {
    expected: `integer, ${least} to ${mostInWords}`,
    accepts: (value) =>
      (Number.isSafeInteger(value) || typeof value === "bigint") &&
      (value as Integer) >= least &&
      (value as Integer) <= most,
  };
}

/** Words for people. */
export function text(mostChars: number): Kind {
  return {
    expected: `text, at most ${mostChars} characters`,
    accepts: (value) => typeof value === "string" && hasChars(value, 0, mostChars) && isUtf8(value),
  };
}

/** A short text that can be shown on one line of a terminal. */
export function name(leastChars: number): Kind {
  return {
    expected: `text, ${leastChars} to 64 characters, no control characters`,
    accepts: (value) =>
      typeof value === "string" && hasChars(value, leastChars, 64) && isUtf8(value) && !hasControl(value),
  };
}

/** One word out of a closed set. */
export function choice(words: readonly string[]): Kind {
  return {
    expected: `one of ${words.map((word) => `\`${word}\``).join(" ")}`,
    accepts: (value) => typeof value === "string" && words.includes(value),
  };
}

export const FLAG: Kind = { expected: "boolean", accepts: (value) => typeof value === "boolean" };

/** An error code. A later server may know more of them than we do. */
export const CODE: Kind = {
  expected: "an error code, 1 to 64 ASCII characters",
  accepts: (value) => typeof value === "string" && /^[\x00-\x7f]{1,64}$/.test(value),
};

/** A map of anything. Its content was looked at when the frame was. */
export const MAP: Kind = { expected: "map", accepts: isMap };

/** `system`, or the absolute path of a cgroup in its normal form. */
export const DOMAIN: Kind = {
  expected: "`system`, or an absolute cgroup path of at most 1024 characters",
  accepts: isDomain,
};

/** A domain as a client may ask for it: also by the word `own`, which no server sends. */
export const DOMAIN_ASKED: Kind = {
  expected: "`system`, `own`, or an absolute cgroup path of at most 1024 characters",
  accepts: (value) => value === "own" || isDomain(value),
};

function isDomain(value: unknown): boolean {
  if (value === "system" || value === "/") return true;
  return (
    typeof value === "string" &&
    value.startsWith("/") &&
    hasChars(value, 0, 1024) &&
    isUtf8(value) &&
    !hasControl(value) &&
    value
      .slice(1)
      .split("/")
      .every((part) => part !== "" && part !== "." && part !== "..")
  );
}

/** Whether a domain lies below another one, which is not itself. Below `system` is every cgroup. */
export function isBelow(domain: string, above: string): boolean {
  if (domain === "system" || domain === above) return false;
  return above === "system" || above === "/" || domain.startsWith(`${above}/`);
}

export function isMap(value: unknown): value is { [key: string]: Value } {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
}

/** Count characters as SPEC.md does, by code points: JavaScript's `length` counts those beyond U+FFFF twice. */
function hasChars(value: string, least: number, most: number): boolean {
  if (value.length > 2 * most) return false;
  let count = value.length;
  for (const character of value) if (character.length === 2) count -= 1;
  return least <= count && count <= most;
}

/** Whether a text can be written as UTF-8, which a lone surrogate cannot. */
function isUtf8(value: string): boolean {
  return !/\p{Surrogate}/u.test(value);
}

function hasControl(value: string): boolean {
  return /[\x00-\x1f\x7f-\x9f]/.test(value);
}

/** Show a value in an error message: short, on one line, whatever it is. */
export function show(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "nil";
  switch (typeof value) {
    case "string":
      return JSON.stringify(value.length <= SHOWN_CHARS ? value : `${value.slice(0, SHOWN_CHARS)}…`);
    case "number":
      if (Number.isInteger(value) && !Number.isSafeInteger(value)) {
        return `the number ${value}, which may be rounded: beyond 2^53-1 it takes a bigint`;
      }
      return String(value);
    case "bigint":
    case "boolean":
      return String(value);
    default:
      return `a value of type ${Array.isArray(value) ? "array" : value instanceof Uint8Array ? "bytes" : typeof value}`;
  }
}
