/**
 * How a request ended, and what its result says.
 *
 * Knows the tables of results, and not who asked: a result that has a table holds all of its keys (SPEC Q-2), or the
 * daemon broke the protocol. Results for people and tools are handed on as they are.
 */

import { FieldFault, readFields } from "./codec.js";
import { BrokenReplyError, LmkdError } from "./errors.js";
import { REGISTRATION, SUBSCRIBED } from "./messages.js";
import type { Field, Grant, Ok, Subscribed, Welcome } from "./messages.js";
import type { Propagation, Result } from "./values.js";

/** Hears how a request ended: with a result, or with an error. */
export type Settle<T> = (error: LmkdError | undefined, result: T) => void;
/** What came for a request, or in its place. */
export type Reply = Ok | Welcome | LmkdError;
export type Heard = (answer: Reply) => void;

export interface Subscription {
  readonly domain: string;
  readonly propagation: Propagation;
  /** What the domain stands for: for `own` a path, once the daemon has said it. */
  path: string;
}

/** Have a reply read, and tell what came of it. */
export function settleWith<T>(type: string, answer: Reply, read: (result: Result) => T, settle: Settle<T>): void {
  if (answer instanceof LmkdError) {
    settle(answer, undefined as T);
    return;
  }
  let result: T;
  try {
    if (answer.type === "welcome") throw new BrokenReplyError(`${type} was answered with welcome`);
    result = read(answer.result);
  } catch (error) {
    if (!(error instanceof BrokenReplyError)) throw error;
    settle(error, undefined as T);
    return;
  }
  settle(undefined, result);
}

/** Read a result that has a table. Throws BrokenReplyError, which names the key and what was expected. */
export function readResult(type: string, fields: readonly Field[], result: Result): Record<string, unknown> {
  try {
    return readFields(`the result of ${type}`, fields, result);
  } catch (error) {
    if (error instanceof FieldFault) throw new BrokenReplyError(error.message);
    throw error;
  }
}

/** Read a registration. Throws BrokenReplyError. */
export function readGrant(type: string, result: Result): Grant {
  return readResult(type, REGISTRATION, result) as unknown as Grant;
}

/** Read what was subscribed, and note what the domain stands for. Throws BrokenReplyError. */
export function readSubscribed(subscription: Subscription, result: Result): Subscribed {
  const { domain, propagation } = readResult("subscribe", SUBSCRIBED, result) as Partial<Subscribed>;
  if (domain === undefined && subscription.domain === "own") {
    throw new BrokenReplyError("the result of subscribe: a subscription to `own` without the path that it stands for");
  }
  subscription.path = domain ?? subscription.domain;
  return { domain: subscription.path, propagation: propagation ?? "local" };
}
