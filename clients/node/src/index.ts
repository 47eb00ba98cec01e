/**
 * lmkd for Node: a program is told of memory pressure, and gives memory back in time.
 *
 *     import { onPressure } from "lmkd-client";
 *     onPressure({ name: "thumbnails" }, () => cache.clear());
 *
 * `connect` is for those who wait themselves. What the words mean is in SPEC.md.
 */

export type { BackoffOptions } from "./backoff.js";
export { findSocket } from "./channel.js";
export { connect } from "./client.js";
export type { Client, ClientOptions, ConnectOptions, Registration, RequestOptions } from "./client.js";
export {
  BrokenReplyError,
  BusyClientError,
  ClosedClientError,
  ConnectionLostError,
  DaemonUnavailableError,
  InvalidArgumentError,
  LmkdError,
  RequestRefusedError,
} from "./errors.js";
export type { ErrorCode } from "./errors.js";
export { collectGarbage, heldBytes } from "./held-memory.js";
export type { Connected, Event, Lost, MalformedFrame, Refused, Registered } from "./inbox.js";
export { onPressure } from "./listener.js";
export type { Listener, ListenOptions } from "./listener.js";
export type { Grant, Killed, KillWarning, Notice, Part, Pressure, RegistrationChange, Subscribed } from "./messages.js";
export type { Freed, Shed, Shedding, ShedOptions } from "./shedding.js";
export type { Answer, AppClass, Integer, Level, OwnClass, Propagation, Result, Scope, Unit, Value } from "./values.js";
