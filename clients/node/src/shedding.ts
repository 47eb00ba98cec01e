/**
 * Do what a notice asks: have the program shed, measure what that gave, and say so in time.
 *
 * Knows no socket; `ack` says a word for the notice. `working` is said once, when half of the deadline has passed. While
 * a callback that is not asynchronous runs nothing can be said: this is the thread that it holds.
 */

import { InvalidArgumentError, LmkdError } from "./errors.js";
import { collectGarbage, heldBytes } from "./held-memory.js";
import type { Notice } from "./messages.js";
import { show } from "./values.js";
import type { Answer, Integer } from "./values.js";

/** What a callback returns where it knows better than can be measured: then nothing is measured. */
export interface Freed {
  readonly freedBytes: Integer;
}

/**
 * Sheds what the program can do without, and may be asynchronous. Where it returns a `Freed`, or a promise of one, that
 * is what is acknowledged; whatever else it returns is ignored, and what it freed is measured.
 */
export type Shed = (notice: Notice) => unknown;

export interface ShedOptions {
  /**
   * Whether garbage is collected before it is measured, unless the target is met without (true). Without it nearly
   * nothing of what was let go of has gone back by then, and `nothing` is what the daemon hears.
   */
  readonly collectGarbage?: boolean | undefined;
}

/** What came of a notice. */
export interface Shedding {
  readonly notice: Notice;
  readonly answer: Answer;
  readonly freedBytes: Integer;
  /** From the call until it was answered. */
  readonly tookMs: number;
}

type Ack = (answer: Answer, freedBytes: Integer) => Promise<unknown>;

/**
 * Shed for a notice, and acknowledge it. What the callback throws is thrown, after what it gave all the same was
 * acknowledged.
 */
export async function shedFor(
  notice: Notice,
  callback: Shed,
  ack: Ack,
  { collectGarbage: collects = true }: ShedOptions = {},
): Promise<Shedding> {
  const beganMs = performance.now();
  const beforeBytes = findHeldBytes();
  const measure = () => (beforeBytes === undefined ? 0 : Math.max(beforeBytes - heldBytes(), 0));
  const halfMs = notice.deadlineMs / 2;
  let saidWorking = halfMs === 0;
  const sayWorking = () => {
    if (saidWorking || performance.now() - beganMs < halfMs) return;
    saidWorking = true;
    // Where it is refused a later notice has taken the place of this one, or the daemon is gone.
    ack("working", measure()).catch(rethrowUnless(LmkdError));
  };
  // Timers of Node may come a millisecond early.
  const timer = saidWorking ? undefined : setTimeout(sayWorking, halfMs + 1);

  let freedBytes: Integer | undefined;
  let failure: { readonly error: unknown } | undefined;
  try {
    freedBytes = readFreed(await callback(notice));
  } catch (error) {
    failure = { error };
  }
  if (freedBytes === undefined) {
    freedBytes = measure();
    if (collects && (notice.targetBytes === 0 || freedBytes < notice.targetBytes)) {
      sayWorking();
      await collectGarbage();
      freedBytes = measure();
    }
  }
  clearTimeout(timer);
  // Who has freed nothing because nothing was asked, or does not know, has not said that there is nothing.
  const hasNothing = freedBytes === 0 && notice.targetBytes > 0 && beforeBytes !== undefined;
  const answer = hasNothing ? "nothing" : "done";
  try {
    await ack(answer, freedBytes);
  } catch (error) {
    throw failure === undefined ? error : failure.error;
  }
  if (failure !== undefined) throw failure.error;
  return { notice, answer, freedBytes, tookMs: Math.round(performance.now() - beganMs) };
}

/** Undefined where there is no /proc, as in a chroot: the program is to shed all the same. */
function findHeldBytes(): number | undefined {
  try {
    return heldBytes();
  } catch {
    return undefined;
  }
}

function readFreed(returned: unknown): Integer | undefined {
  if (typeof returned !== "object" || returned === null || !("freedBytes" in returned)) return undefined;
  const { freedBytes } = returned;
  if ((Number.isSafeInteger(freedBytes) || typeof freedBytes === "bigint") && (freedBytes as Integer) >= 0) {
    return freedBytes as Integer;
  }
  throw new InvalidArgumentError(`freedBytes: expected a count of bytes; the callback returned ${show(freedBytes)}`);
}

function rethrowUnless(kind: typeof LmkdError): (error: unknown) => void {
  return (error) => {
    if (!(error instanceof kind)) throw error;
  };
}
