/**
 * What a payload is made of: checked head by head, before anything is decoded (SPEC T-1 to T-6).
 *
 * The decoder of @msgpack/msgpack cannot be told to refuse what the protocol forbids: a float that is whole comes out as
 * an integer, bytes that are no UTF-8 as some text, and of a key that comes twice the last is taken. So this pass
 * looks at the heads alone. It allocates nothing for what a head claims, and says at which byte it saw what.
 */

import { RemoteProtocolError } from "./errors.js";
import { MAX_DEPTH, MAX_ITEMS } from "./values.js";

const UTF8 = new TextDecoder("utf-8", { fatal: true });

/**
 * Check that a payload is one map of what the protocol allows, and count the entries of all its maps: after decoding
 * there must be as many, or a key came twice. Throws RemoteProtocolError.
 */
export function countEntries(payload: Uint8Array): number {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  // Of each array or map that is open: how many values are still to come in it, keys included; and whether it is a map.
  const left = new Uint32Array(MAX_DEPTH);
  const isMap = new Uint8Array(MAX_DEPTH);
  let depth = 0;
  let entries = 0;
  let at = 0;

  function fault(expected: string, got: string): RemoteProtocolError {
    return new RemoteProtocolError("malformed", `byte ${at}: expected ${expected}; got ${got}`);
  }

  /** Read the number behind a head. */
  function size(bytes: 1 | 2 | 4): number {
    if (at + 1 + bytes > payload.length) throw fault(`${bytes} bytes of a length`, "the end of the frame");
    return bytes === 1 ? view.getUint8(at + 1) : bytes === 2 ? view.getUint16(at + 1) : view.getUint32(at + 1);
  }

  function skip(head: number, content: number): void {
    if (at + head + content > payload.length) throw fault(`${head + content} bytes`, `the last ${payload.length - at}`);
    at += head + content;
  }

  function skipText(head: number, bytes: number): void {
    const begin = at + head;
    skip(head, bytes);
    for (let byte = begin; byte < at; byte += 1) {
      if ((payload[byte] as number) < 0x80) continue;
      try {
        UTF8.decode(payload.subarray(begin, at));
      } catch {
        at = begin;
        throw fault("text in UTF-8", "bytes that are none");
      }
      return;
    }
  }

  function open(head: number, count: number, map: boolean): void {
    const what = map ? "map" : "array";
    if (depth === MAX_DEPTH) throw fault(`values nested at most ${MAX_DEPTH} deep`, `one more ${what}`);
    if (count > MAX_ITEMS) throw fault(`at most ${MAX_ITEMS} entries`, `${a(what)} of ${count}`);
    at += head;
    left[depth] = map ? 2 * count : count;
    isMap[depth] = map ? 1 : 0;
    depth += 1;
    if (map) entries += count;
  }

  do {
    const head = payload[at];
    if (head === undefined) throw fault("a value", "the end of the frame");
    const what = kindOf(head);
    if (depth === 0) {
      if (what !== "map") throw fault("a map", a(what));
    } else {
      const rest = left[depth - 1] as number;
      if (isMap[depth - 1] === 1 && rest % 2 === 0 && what !== "text") throw fault("text as a key", a(what));
      left[depth - 1] = rest - 1;
    }
    switch (what) {
      case "text":
        if (head < 0xc0) skipText(1, head & 0x1f);
        else if (head === 0xd9) skipText(2, size(1));
        else if (head === 0xda) skipText(3, size(2));
        else skipText(5, size(4));
        break;
      case "map":
        if (head < 0x90) open(1, head & 0x0f, true);
        else if (head === 0xde) open(3, size(2), true);
        else open(5, size(4), true);
        break;
      case "array":
        if (head < 0xa0) open(1, head & 0x0f, false);
        else if (head === 0xdc) open(3, size(2), false);
        else open(5, size(4), false);
        break;
      case "bytes":
        if (head === 0xc4) skip(2, size(1));
        else if (head === 0xc5) skip(3, size(2));
        else skip(5, size(4));
        break;
      case "integer":
        // cc to cf and d0 to d3: of 1, 2, 4 and 8 bytes; the others are their own value.
        skip(1, head >= 0xcc && head <= 0xd3 ? 1 << (head & 3) : 0);
        break;
      case "nil":
      case "boolean":
        skip(1, 0);
        break;
      default:
        throw fault("a type of the protocol", a(what));
    }
    while (depth > 0 && left[depth - 1] === 0) depth -= 1;
  } while (depth > 0);
  if (at < payload.length) throw fault("the end of the frame", `${payload.length - at} bytes more`);
  return entries;
}

function kindOf(head: number): string {
  if (head < 0x80 || head >= 0xe0) return "integer";
  if (head < 0x90) return "map";
  if (head < 0xa0) return "array";
  if (head < 0xc0) return "text";
  if (head === 0xc0) return "nil";
  if (head === 0xc1) return "byte that begins no value";
  if (head <= 0xc3) return "boolean";
  if (head <= 0xc6) return "bytes";
  if (head <= 0xc9) return "extension type";
  if (head <= 0xcb) return "float";
  if (head <= 0xd3) return "integer";
  if (head <= 0xd8) return "extension type";
  if (head <= 0xdb) return "text";
  return head <= 0xdd ? "array" : "map";
}

function a(what: string): string {
  if (what === "text" || what === "bytes" || what === "nil") return what;
  return /^[aei]/.test(what) ? `an ${what}` : `a ${what}`;
}
