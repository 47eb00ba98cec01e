/**
 * Messages to bytes, and bytes to messages.
 *
 * Knows msgpack and the tables of the messages, and not who says what when. Decoding is strict in what could hide a
 * mistake (a repeated key, a float, a key that is no text) and open to what a later version may add (unknown keys,
 * unknown types).
 */

import { Decoder, Encoder } from "@msgpack/msgpack";

import { InvalidArgumentError, RemoteProtocolError } from "./errors.js";
import { encodeFrame } from "./framing.js";
import { ANSWERED, ONE_OF, REQUESTS, REQUIRED } from "./messages.js";
import type { Field, Message, Request } from "./messages.js";
import { MAX_ID, isMap, show } from "./values.js";
import type { Integer, Value } from "./values.js";
import { countEntries } from "./wire.js";

const MAX_TYPE_CHARS = 64;
const UINT32_MAX = 2 ** 32 - 1;

// Bigints on both sides: without, the library rounds what is beyond 2^53-1.
const ENCODER = new Encoder({ useBigInt64: true, initialBufferSize: 256 });
const DECODER = new Decoder({
  useBigInt64: true,
  keyDecoder: {
    canBeCached: () => true,
    decode(bytes, begin, length) {
      const key = Buffer.from(bytes.buffer, bytes.byteOffset + begin, length).toString();
      // The library refuses this one, but an unknown key is to be ignored, whatever it is called (T-10).
      return key === "__proto__" ? "(__proto__)" : key;
    },
  },
});

/** A well-formed message of a type that a client does not take. */
export class UnknownMessage {
  constructor(
    readonly type: string,
    readonly id: number | null,
  ) {}
}

/**
 * Encode a request as a whole frame, in canonical form: what equals its default is left out. Throws
 * InvalidArgumentError, which names the key, and says what was expected.
 */
export function encode(request: Request, id: number): Uint8Array {
  const fields = REQUESTS[request.type];
  const said: Record<string, unknown> = { ...request, id };
  const body: Record<string, Value> = { type: request.type };
  for (const { key, attribute, kind, absent } of fields) {
    const value = said[attribute];
    if (value === undefined && absent !== REQUIRED) continue;
    if (!kind.accepts(value)) {
      throw new InvalidArgumentError(
        `${request.type}: key '${key}' (${attribute}): expected ${kind.expected}; got ${show(value)}`,
      );
    }
    if (value !== absent) body[key] = toWire(value as Value);
  }
  checkOneOf(request.type, body);
  return encodeFrame(ENCODER.encode(body));
}

/** Throw InvalidArgumentError where a request could not be sent, now and not when it is. */
export function checkRequest(request: Request): void {
  encode(request, 0);
}

/**
 * Decode the payload of one frame. Throws RemoteProtocolError: `malformed` where the payload breaks the rules for every
 * message, and `bad_value` where it breaks those of its own type.
 */
export function decode(payload: Uint8Array): Message | UnknownMessage {
  const entries = countEntries(payload);
  const body = DECODER.decode(payload) as { [key: string]: Value };
  const id = readId(body["id"]);
  if (settle(body) !== entries) throw new RemoteProtocolError("malformed", "a map repeats a key");
  const type = body["type"];
  if (typeof type !== "string" || type === "" || [...type].length > MAX_TYPE_CHARS) {
    throw new RemoteProtocolError(
      "malformed",
      `key 'type': expected text, 1 to ${MAX_TYPE_CHARS} characters; got ${show(type)}`,
      id,
    );
  }
  if (!Object.hasOwn(ANSWERED, type)) return new UnknownMessage(type, id);
  const fields = ANSWERED[type as Message["type"]];
  const needsId = fields[0]?.key === "id" && fields[0].absent === REQUIRED;
  if (needsId && id === null) {
    throw new RemoteProtocolError(
      "malformed",
      `${type}: key 'id': expected ${fields[0]?.kind.expected}; got ${show(body["id"])}`,
    );
  }
  try {
    return { type, ...readFields(type, fields, body) } as Message;
  } catch (error) {
    if (error instanceof FieldFault) throw new RemoteProtocolError("bad_value", error.message, id);
    throw error;
  }
}

/** A value that is missing, or not allowed. */
export class FieldFault extends Error {}

/** Read what a table names out of a map, by attribute. Throws FieldFault. */
export function readFields(
  where: string,
  fields: readonly Field[],
  body: { readonly [key: string]: Value },
): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const { key, attribute, kind, absent } of fields) {
    const value = Object.hasOwn(body, key) ? body[key] : undefined;
    if (value !== undefined && value !== null) {
      if (!kind.accepts(value)) {
        throw new FieldFault(`${where}: key '${key}': expected ${kind.expected}; got ${show(value)}`);
      }
      values[attribute] = value;
    } else if (absent === REQUIRED) {
      throw new FieldFault(`${where}: key '${key}': expected ${kind.expected}; got nothing`);
    } else if (absent !== undefined) {
      values[attribute] = absent;
    }
  }
  return values;
}

function checkOneOf(type: string, body: { [key: string]: Value }): void {
  const rule = ONE_OF[type];
  if (rule === undefined) return;
  const count = rule.keys.filter((key) => Object.hasOwn(body, key)).length;
  if (count < 1 || count > rule.most) {
    const many = rule.most === 1 ? "exactly" : "at least";
    const keys = rule.keys.map((key) => `'${key}'`).join(", ");
    throw new InvalidArgumentError(`${type}: expected ${many} one of the keys ${keys}; got ${count} of them`);
  }
}

/** Give an integer in the type that the library writes in the shortest form. */
function toWire(value: Value): Value {
  if (typeof value === "bigint") return value <= UINT32_MAX ? Number(value) : value;
  // With bigints on, the library writes a number beyond 32 bits as a float.
  return typeof value === "number" && value > UINT32_MAX ? BigInt(value) : value;
}

/** Make numbers of all bigints that one can hold, in place, and count the entries of all maps. */
function settle(root: { [key: string]: Value }): number {
  const pending: (Value[] | { [key: string]: Value })[] = [root];
  let entries = 0;
  for (let node = pending.pop(); node !== undefined; node = pending.pop()) {
    const keys = Array.isArray(node) ? node.keys() : Object.keys(node);
    const holder = node as { [key: string | number]: Value };
    if (!Array.isArray(node)) entries += (keys as string[]).length;
    for (const key of keys) {
      const value = holder[key] as Value;
      if (typeof value === "bigint") holder[key] = shorten(value);
      else if (Array.isArray(value) || isMap(value)) pending.push(value);
    }
  }
  return entries;
}

function shorten(value: bigint): Integer {
  return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

function readId(value: Value | undefined): number | null {
  const id = typeof value === "bigint" ? shorten(value) : value;
  return typeof id === "number" && id >= 0 && id <= MAX_ID ? id : null;
}
