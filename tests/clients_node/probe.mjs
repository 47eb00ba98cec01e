// Runs what a test gives it, a line of JSON with code for each, and prints what comes of it, a line of JSON too.
//
// `lmkd` is the client's module, `state` is kept from one line to the next; what it says of itself, and each error,
// is told by name. A bigint is {"$bigint": "5"}, bytes are {"$hex": "00"}.
import { createInterface } from "node:readline";
import * as lmkd from "lmkd-client";

const AsyncFunction = (async () => {}).constructor;
const state = {};

/** Take events until one of this type comes, and return it. */
state.until = async (type, client = state.client) => {
  for await (const event of client) if (event.type === type) return event;
  return null;
};

function replace(key, value) {
  if (typeof value === "bigint") return { $bigint: String(value) };
  if (value?.type === "Buffer") return { $hex: Buffer.from(value.data).toString("hex") };
  if (value instanceof Uint8Array) return { $hex: Buffer.from(value).toString("hex") };
  if (value instanceof Error) return describe(value);
  return value;
}

function describe(error) {
  return { name: error.name, code: error.code, message: error.message, isOurs: error instanceof lmkd.LmkdError };
}

function print(line) {
  process.stdout.write(`${JSON.stringify(line, replace)}\n`);
}

for await (const line of createInterface({ input: process.stdin })) {
  try {
    const value = await new AsyncFunction("lmkd", "state", JSON.parse(line))(lmkd, state);
    print({ value: value ?? null });
  } catch (error) {
    print({ error: describe(error) });
  }
}
