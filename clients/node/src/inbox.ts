/**
 * What is on its way to a program: the latest of each sort, in the order in which it came.
 *
 * Filled by the session and emptied by the client; `take` never waits. What a slow program has not taken yet stays
 * bounded: a newer level, notice or state of the connection takes the place of an older one.
 */

import type { LmkdError } from "./errors.js";
import type { Grant, Killed, KillWarning, Notice, Pressure } from "./messages.js";

/** Reports of kills that wait for a slow program; older ones are in the daemon's history. */
const KILLED_MOST = 16;
/** Domains below a subscribed one whose levels are kept apart; beyond that the one heard of longest ago is forgotten. */
export const DOMAINS_MOST = 256;

/** A conversation has begun: the first, or one after a loss. Levels and notices of an earlier one hold no more. */
export interface Connected {
  readonly type: "connected";
  /** Name and version of the daemon, for people. */
  readonly server: string;
  /** Whether this client may do what takes the controller. */
  readonly controller: boolean;
}

/** The connection has ended. With `reconnect` the client tries again by itself. */
export interface Lost {
  readonly type: "lost";
  readonly error: LmkdError;
}

/** This program is an app: it has registered, or has been registered again on a new connection, or was changed. */
export interface Registered {
  readonly type: "registered";
  readonly grant: Grant;
}

/** What was granted over an earlier connection was refused on a new one, and is no more. */
export interface Refused {
  readonly type: "refused";
  readonly request: "register" | "subscribe";
  /** The domain that was subscribed, as it was asked for. */
  readonly domain?: string;
  readonly error: LmkdError;
}

/** A frame of the daemon's that means nothing, and was passed over (SPEC T-11). */
export interface MalformedFrame {
  readonly type: "malformed";
  /** Where, what was expected, and what was there. */
  readonly message: string;
}

/** Whatever a client hears; `type` says which. */
export type Event = Pressure | Notice | KillWarning | Killed | Connected | Lost | Registered | Refused | MalformedFrame;

export class Inbox {
  readonly #events = new Map<string, Event>();
  #killed = 0;

  /** Take in an event, in the place of what it makes out of date. */
  put(event: Event): void {
    const key = this.#key(event);
    this.#events.delete(key);
    this.#events.set(key, event);
    if (event.type === "pressure") this.#dropOldest("pressure ", DOMAINS_MOST);
    if (event.type === "killed") this.#dropOldest("killed ", KILLED_MOST);
    // What an ended connection asked for is not to be answered any more.
    if (event.type === "lost") this.dropApp();
  }

  /** Give the next event. */
  take(): Event | undefined {
    for (const [key, event] of this.#events) {
      this.#events.delete(key);
      return event;
    }
    return undefined;
  }

  /** Drop what waits for this program as an app. */
  dropApp(): void {
    for (const type of ["notice", "kill_warning", "registered"]) this.#events.delete(type);
  }

  /** Drop what waits of domains that are not heard of any more. */
  dropDomains(isUnheard: (domain: string) => boolean): void {
    for (const [key, event] of this.#events) {
      const isOfDomain = event.type === "pressure" || event.type === "killed";
      if (isOfDomain && isUnheard(event.domain)) this.#events.delete(key);
    }
  }

  /** Drop everything. */
  clear(): void {
    this.#events.clear();
  }

  #key(event: Event): string {
    switch (event.type) {
      case "pressure":
        return `pressure ${event.domain}`;
      case "killed":
        this.#killed += 1;
        return `killed ${this.#killed}`;
      case "refused":
        return `refused ${event.request} ${event.domain ?? ""}`;
      default:
        return event.type;
    }
  }

  #dropOldest(prefix: string, most: number): void {
    const keys = [...this.#events.keys()].filter((key) => key.startsWith(prefix));
    for (const key of keys.slice(0, Math.max(keys.length - most, 0))) this.#events.delete(key);
  }
}
