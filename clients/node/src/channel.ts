/**
 * The session's socket: found, opened, written and read.
 *
 * Nothing here throws for what the daemon does: a connection that ends is told to the session, and then to the shell.
 * A daemon that accepts and never greets is left after a while, as one that is not there.
 */

import { existsSync } from "node:fs";
import { connect } from "node:net";
import type { Socket } from "node:net";
import { getSystemErrorMap } from "node:util";

import type { Session } from "./session.js";

export const SYSTEM_SOCKET = "/run/lmkd/socket";
const GREETING_MOST_MS = 10_000;
/** What fits into the kernel's sockaddr_un with its NUL; Node 18 cuts off the rest, and connects to another socket. */
const PATH_MOST_BYTES = 107;

/** Return where lmkd is to be found: $LMKD_SOCKET, else the session's socket if it is there, else the system's. */
export function findSocket(environment: NodeJS.ProcessEnv = process.env): string {
  const named = environment["LMKD_SOCKET"];
  if (named) return named;
  const runtime = environment["XDG_RUNTIME_DIR"];
  if (runtime) {
    const path = `${runtime}/lmkd/socket`;
    if (existsSync(path)) return path;
  }
  return SYSTEM_SOCKET;
}

/** How a channel ended: whether there was anybody, why not, and how long the connection lasted. */
export interface ChannelEnd {
  readonly wasConnected: boolean;
  readonly why: string;
  readonly lastedMs: number;
}

/** One connection of a session. */
export class Channel {
  readonly #session: Session;
  readonly #onChange: () => void;
  readonly #onEnd: (end: ChannelEnd) => void;
  readonly #socket: Socket | undefined;
  #greeting: NodeJS.Timeout | undefined;
  #connectedAtMs: number | undefined;
  #error: string | undefined;
  #ended = false;

  /** `onChange` is called when the session has taken something in, `onEnd` once, never from within this. */
  constructor(session: Session, onChange: () => void, onEnd: (end: ChannelEnd) => void) {
    this.#session = session;
    this.#onChange = onChange;
    this.#onEnd = onEnd;
    const bytes = Buffer.byteLength(session.path);
    if (bytes > PATH_MOST_BYTES) {
      this.#error = `a socket's path has at most ${PATH_MOST_BYTES} bytes, not ${bytes}`;
      process.nextTick(() => this.#end());
      return;
    }
    this.#socket = connect({ path: session.path });
    this.#socket.on("connect", () => this.#connected());
    this.#socket.on("data", (chunk) => this.#read(chunk));
    this.#socket.on("error", (error) => {
      this.#error = describe(error);
    });
    this.#socket.on("close", () => this.#end());
  }

  /** Send what the session has to say. */
  flush(): void {
    if (this.#ended || this.#connectedAtMs === undefined) return;
    const frames = this.#session.takeOutgoing();
    if (frames.length > 0) this.#socket?.write(frames.length === 1 ? (frames[0] as Uint8Array) : Buffer.concat(frames));
  }

  /** Keep the process alive, or do not. */
  keepAlive(keep: boolean): void {
    if (keep) this.#socket?.ref();
    else this.#socket?.unref();
  }

  /** Leave: what was said still goes out, and nothing is heard or told any more. */
  close(): void {
    this.#ended = true;
    clearTimeout(this.#greeting);
    this.#socket?.removeAllListeners("data");
    this.#socket?.unref();
    this.#socket?.destroySoon();
  }

  #connected(): void {
    if (this.#ended) return;
    this.#connectedAtMs = performance.now();
    this.#greeting = setTimeout(() => this.#hangUp("no greeting came in time"), GREETING_MOST_MS).unref();
    this.#session.connected();
    this.flush();
  }

  #read(chunk: Buffer): void {
    if (this.#ended) return;
    this.#session.receive(chunk);
    if (this.#session.welcome !== undefined) clearTimeout(this.#greeting);
    if (this.#session.isAway) this.#socket?.destroy();
    else this.flush();
    this.#onChange();
  }

  #hangUp(why: string): void {
    this.#error = why;
    this.#socket?.destroy();
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#greeting);
    const why = this.#error ?? "it closed the connection";
    this.#session.lost(why);
    const at = this.#connectedAtMs;
    this.#onEnd({ wasConnected: at !== undefined, why, lastedMs: at === undefined ? 0 : performance.now() - at });
  }
}

function describe(error: NodeJS.ErrnoException): string {
  const known = error.errno === undefined ? undefined : getSystemErrorMap().get(error.errno);
  if (known === undefined) return error.message;
  // As the kernel says it of a Unix socket whose queue is full.
  return known[0] === "EAGAIN" ? "too many others wait to be let in" : `${known[1]} (${known[0]})`;
}
