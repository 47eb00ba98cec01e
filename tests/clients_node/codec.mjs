// The codec of the client, fed by a test: for each line of JSON on the input one on the output.
//
//   {"encode": {"type": "hello", "id": 0, ...}}   a request by the wire's keys  -> {"hex": "..."}
//   {"decode": "...", "pieces": 1}                a stream in pieces of so many bytes -> {"events": [...]}
//   {"length": 65537}                             four bytes of a length -> the same
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const dist = (name) => import(pathToFileURL(`${process.cwd()}/node_modules/lmkd-client/dist/${name}.js`));
const { FrameReader } = await dist("framing");
const { encode, decode, UnknownMessage } = await dist("codec");
const { ANSWERED, REQUESTS } = await dist("messages");

const isBytes = (value) => value !== null && typeof value === "object" && "$hex" in value;
const isBigint = (value) => value !== null && typeof value === "object" && "$bigint" in value;

/** Out of JSON: bytes and bigints, which it has not. */
function revive(value) {
  if (Array.isArray(value)) return value.map(revive);
  if (isBytes(value)) return new Uint8Array(Buffer.from(value.$hex, "hex"));
  if (isBigint(value)) return BigInt(value.$bigint);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, revive(each)]));
  }
  return value;
}

function show(value) {
  if (typeof value === "bigint") return { $bigint: String(value) };
  if (value instanceof Uint8Array) return { $hex: Buffer.from(value).toString("hex") };
  if (Array.isArray(value)) return value.map(show);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, show(each)]));
  }
  return value;
}

/** A request by attributes, from one by keys. */
function toRequest(message) {
  const request = { type: message.type };
  for (const { key, attribute } of REQUESTS[message.type]) if (key in message) request[attribute] = message[key];
  return request;
}

/** A message by keys, from one by attributes; what equals its default is left out. */
function toMessage(event) {
  if (event instanceof UnknownMessage) return { $unknown: { type: event.type, id: event.id } };
  const message = { type: event.type };
  for (const { key, attribute, absent } of ANSWERED[event.type]) {
    const value = event[attribute];
    if (value !== absent && !(key === "result" && Object.keys(value).length === 0)) message[key] = show(value);
  }
  return message;
}

function receive(bytes, size) {
  const reader = new FrameReader();
  const events = [];
  try {
    for (let at = 0; at < bytes.length; at += size) {
      for (const payload of reader.read(bytes.subarray(at, at + size))) {
        try {
          events.push({ message: toMessage(decode(payload)) });
        } catch (error) {
          if (error.name !== "RemoteProtocolError") throw error;
          events.push({ code: error.code, id: error.requestId, says: error.message, fatal: false });
        }
      }
    }
  } catch (error) {
    if (error.name !== "RemoteProtocolError") throw error;
    events.push({ code: error.code, id: error.requestId, says: error.message, fatal: true });
  }
  return events;
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  let said;
  if ("encode" in asked) {
    try {
      const message = revive(asked.encode);
      said = { hex: Buffer.from(encode(toRequest(message), message.id)).toString("hex") };
    } catch (error) {
      said = { error: error.name, says: error.message };
    }
  } else {
    said = { events: receive(Buffer.from(asked.decode, "hex"), asked.pieces) };
  }
  process.stdout.write(`${JSON.stringify(said)}\n`);
}
