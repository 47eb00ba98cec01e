/**
 * What can go wrong for a client, by whose fault it is.
 *
 * `Closed…`, `Busy…` and `InvalidArgument…` are mistakes of this program; what is broken, lost, refused or away lies
 * outside it. Knows no socket and no message. Each error has a `code` for programs; the message says where and what.
 */

/** The error codes of SPEC.md. */
export const ERROR_CODES = [
  "malformed",
  "frame_too_long",
  "unknown_type",
  "bad_value",
  "hello_first",
  "hello_twice",
  "bad_version",
  "not_subscribed",
  "not_registered",
  "already_registered",
  "unknown_domain",
  "unknown_notice",
  "unknown_app",
  "unknown_process",
  "unknown_episode",
  "unknown_kill",
  "forbidden",
  "busy",
  "too_many",
  "failed",
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];

/** Anything that a client of lmkd may have to deal with. */
export abstract class LmkdError extends Error {
  /** What happened, in a word for programs. */
  abstract readonly code: string;

  // Not this.constructor.name: a bundler may have shortened that.
  abstract override readonly name: string;
}

/** There is nobody at the socket now. */
export class DaemonUnavailableError extends LmkdError {
  override readonly name = "DaemonUnavailableError";
  readonly code = "unavailable";

  constructor(
    readonly path: string,
    readonly why: string,
  ) {
    super(`no lmkd at ${path}: ${why}`);
  }
}

/** The connection ended before what was waited for. Whether a request was still done is not known. */
export class ConnectionLostError extends LmkdError {
  override readonly name = "ConnectionLostError";
  readonly code = "connection_lost";

  constructor(
    readonly path: string,
    readonly why: string,
  ) {
    super(`lost lmkd at ${path}: ${why}`);
  }
}

/** The daemon answered, but not with what the protocol says it must. */
export class BrokenReplyError extends LmkdError {
  override readonly name = "BrokenReplyError";
  readonly code = "broken_reply";
}

/**
 * The daemon answered with an error. `code` is one of SPEC.md's; a code of a later version is `failed`, and
 * `said` is the word as it came.
 */
export class RequestRefusedError extends LmkdError {
  override readonly name = "RequestRefusedError";
  readonly code: ErrorCode;

  constructor(
    readonly said: string,
    readonly reason: string,
  ) {
    super(`${said}: ${reason}`);
    this.code = ERROR_CODES.find((code) => code === said) ?? "failed";
  }
}

/** This program closed the client, or unregistered, and used it all the same. */
export class ClosedClientError extends LmkdError {
  override readonly name = "ClosedClientError";
  readonly code = "closed";
}

/** This program waits for one thing in two places at once, or wants one thing twice. */
export class BusyClientError extends LmkdError {
  override readonly name = "BusyClientError";
  readonly code = "busy_client";
}

/** This program asked for what the protocol does not allow; nothing was sent. */
export class InvalidArgumentError extends LmkdError {
  override readonly name = "InvalidArgumentError";
  readonly code = "invalid_argument";
}

/**
 * The daemon broke the rules of a frame: `malformed`, `bad_value` or `frame_too_long`. Never thrown at a program: it
 * is a `malformed` event, or the reason why a connection was lost.
 */
export class RemoteProtocolError extends Error {
  override readonly name = "RemoteProtocolError";

  constructor(
    readonly code: "malformed" | "bad_value" | "frame_too_long",
    message: string,
    readonly requestId: number | null = null,
  ) {
    super(message);
  }
}
