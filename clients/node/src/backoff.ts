/**
 * How long to wait before the next try to connect.
 *
 * Pauses double from `firstMs` up to `mostMs`, and each is shortened by chance by up to a half, so that a thousand
 * clients of a daemon that was restarted do not all come back at one moment. No pause is ever 0: nothing spins.
 */

import { InvalidArgumentError } from "./errors.js";

export interface BackoffOptions {
  /** The first pause, 100 if nothing is said; 2 at least. */
  readonly firstMs?: number | undefined;
  /** The longest, 10,000 if nothing is said. */
  readonly mostMs?: number | undefined;
}

/** The pauses of one client. `draw` gives a number from 0 to below 1. */
export class Backoff {
  readonly #firstMs: number;
  readonly #mostMs: number;
  readonly #draw: () => number;
  #nextMs: number;

  constructor({ firstMs = 100, mostMs = 10_000 }: BackoffOptions = {}, draw: () => number = Math.random) {
    if (!(firstMs >= 2 && firstMs <= mostMs && mostMs < 2 ** 31)) {
      throw new InvalidArgumentError(`backoff: expected 2 <= firstMs <= mostMs < 2^31; got ${firstMs} and ${mostMs}`);
    }
    this.#firstMs = firstMs;
    this.#mostMs = mostMs;
    this.#draw = draw;
    this.#nextMs = firstMs;
  }

  /**
   * Return the next pause, where the connection before it lasted so long; the one after it is longer.
   *
   * Only a connection that outlasted the longest pause begins the row again: a daemon that greets and then dies, again
   * and again, is not helped by haste.
   */
  nextPauseMs(lastedMs = 0): number {
    if (lastedMs >= this.#mostMs) this.#nextMs = this.#firstMs;
    const wholeMs = this.#nextMs;
    this.#nextMs = Math.min(2 * wholeMs, this.#mostMs);
    return Math.ceil(wholeMs - (this.#draw() * wholeMs) / 2);
  }
}
