/**
 * A program's connection to lmkd: promises and an async iterator around the session.
 *
 *     const client = await connect({ name: "thumbnails" });
 *     await client.register({ name: "thumbnails", sheddableBytes: 64 * 2 ** 20 });
 *     for await (const event of client) {
 *       if (event.type === "notice" && event.level !== "normal") await client.shed(event, () => cache.clear());
 *     }
 *
 * With `reconnect` a lost connection is made again, after pauses that grow, and all that was subscribed and registered
 * is said again. What is asked of a client whose daemon is away fails at once.
 */

import { Backoff } from "./backoff.js";
import type { BackoffOptions } from "./backoff.js";
import { Channel, findSocket } from "./channel.js";
import type { ChannelEnd } from "./channel.js";
import { BusyClientError, ClosedClientError, DaemonUnavailableError, InvalidArgumentError } from "./errors.js";
import type { LmkdError } from "./errors.js";
import type { Event } from "./inbox.js";
import type { Grant, Notice, Part, Question, RegistrationChange, Subscribed } from "./messages.js";
import { readGrant } from "./replies.js";
import type { Settle } from "./replies.js";
import { Session } from "./session.js";
import { shedFor } from "./shedding.js";
import type { Shed, ShedOptions, Shedding } from "./shedding.js";
import { show } from "./values.js";
import type { Answer, AppClass, Integer, Level, OwnClass, Propagation, Result, Scope, Unit } from "./values.js";

/** Where `await using` looks. Node before 18.18 has no such symbol, and nothing there looks for it. */
export const ASYNC_DISPOSE: typeof Symbol.asyncDispose = Symbol.asyncDispose ?? Symbol("asyncDispose");

export interface ClientOptions {
  /** The daemon's socket; if nothing is said, what `findSocket` finds at each try. */
  readonly path?: string | undefined;
  /** The program's name, for people: 0 to 64 characters. */
  readonly name?: string | undefined;
  /** Whether a lost connection is made again (true). */
  readonly reconnect?: boolean | undefined;
  /** The pauses before that. */
  readonly backoff?: BackoffOptions | undefined;
  /** Whether the client keeps the process alive (true), as a socket of node:net does. `ref` and `unref` change it. */
  readonly keepAlive?: boolean | undefined;
}

export interface ConnectOptions extends ClientOptions {
  /** Whether to wait for a daemon where there is none yet (false: a DaemonUnavailableError at once). */
  readonly wait?: boolean | undefined;
  /** Gives up; the promise is rejected with its reason. */
  readonly signal?: AbortSignal | undefined;
}

/** For each request: `signal` gives up waiting, and the promise is rejected with its reason. */
export interface RequestOptions {
  readonly signal?: AbortSignal | undefined;
}

/** What an app says of itself. */
export interface Registration {
  /** For people: 1 to 64 characters, no control characters. */
  readonly name: string;
  /** How much the user would miss it (`cached`). */
  readonly appClass?: OwnClass | undefined;
  /** How much it could free if asked (0). Who declares it is asked for a part of it, who does not for no amount. */
  readonly sheddableBytes?: Integer | undefined;
  /** What dies together (`process`). */
  readonly unit?: Unit | undefined;
}

/**
 * Connect to lmkd, and be greeted.
 *
 * Throws DaemonUnavailableError where nobody is at the socket and ConnectionLostError where nobody greets, both
 * without `wait`; RequestRefusedError `bad_version` where the daemon speaks no version of ours; InvalidArgumentError.
 */
export async function connect(options: ConnectOptions = {}): Promise<Client> {
  const client = new Client(options);
  try {
    await client.waitGreeted(options);
  } catch (error) {
    client.close();
    throw error;
  }
  return client;
}

/** Made by `connect`. */
export class Client {
  readonly #session: Session;
  readonly #path: string | undefined;
  readonly #backoff: Backoff;
  #keepAlive: boolean;
  #channel: Channel | undefined;
  #pause: NodeJS.Timeout | undefined;
  #whyAway: LmkdError | undefined;
  #wakeIterator: (() => void) | undefined;
  readonly #awaitGreeting = new Set<() => void>();

  /** @internal */
  constructor({ path, name = "", reconnect = true, backoff, keepAlive = true }: ClientOptions) {
    if (path !== undefined && (typeof path !== "string" || path === "" || path.includes("\0"))) {
      throw new InvalidArgumentError(`path: expected the path of a socket; got ${show(path)}`);
    }
    this.#path = path;
    this.#backoff = new Backoff(backoff);
    this.#keepAlive = keepAlive;
    this.#session = new Session(name, reconnect);
    this.#open();
  }

  /** Where the daemon is looked for, or was found. */
  get path(): string {
    return this.#session.path;
  }

  /** What the daemon said of itself; undefined while it is away. */
  get server(): { readonly name: string; readonly controller: boolean } | undefined {
    const welcome = this.#session.welcome;
    return welcome && { name: welcome.server, controller: welcome.controller };
  }

  /** What was granted last; undefined while this program is not registered, or the daemon is away. */
  get grant(): Grant | undefined {
    return this.#session.grant;
  }

  /** The level of the last notice to this program; `normal` before the first, and while the daemon is away. */
  get level(): Level {
    return this.#session.level;
  }

  /** Whether this program has asked to be an app, and not been refused. */
  get isApp(): boolean {
    return this.#session.isApp;
  }

  /** Whether this client has ended: closed by this program, or for the reason that its iterator throws. */
  get isClosed(): boolean {
    return this.#session.over !== undefined;
  }

  // --- what is heard ----------------------------------------------------------------------------------------

  /**
   * Iterate over what is heard, in one place at a time; the latest of each sort is kept until it is taken. It ends
   * when the client is closed, and throws the reason where it ends otherwise: ConnectionLostError without `reconnect`,
   * RequestRefusedError of another version, BusyClientError in a second place.
   *
   * To leave the loop closes nothing.
   */
  events({ signal }: RequestOptions = {}): AsyncIterableIterator<Event> {
    return {
      next: () => this.#nextEvent(signal),
      return: () => Promise.resolve({ done: true, value: undefined }),
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<Event> {
    return this.events();
  }

  // --- levels, and being an app -----------------------------------------------------------------------------

  /**
   * Hear a domain's level, now and whenever it changes (`pressure`), and who was killed there (`killed`).
   *
   * A domain is `system`, `own` (the cgroup that this program is in) or an absolute cgroup path. What is heard comes by
   * the client's iterator. Throws RequestRefusedError (`unknown_domain`, `forbidden`, `too_many`), BusyClientError where
   * it is subscribed already, InvalidArgumentError, and what every request does: DaemonUnavailableError where the
   * daemon is away, ConnectionLostError where it leaves before it has answered.
   */
  subscribe(
    domain = "system",
    { propagation = "local", signal }: RequestOptions & { readonly propagation?: Propagation | undefined } = {},
  ): Promise<Subscribed> {
    return this.#request(
      (settle) => this.#session.subscribe(domain, propagation, settle),
      signal,
      () => this.#session.unsubscribe(domain),
    );
  }

  /** Hear no more of a domain, named as it was subscribed. Return whether it was. */
  unsubscribe(domain = "system"): boolean {
    const was = this.#session.unsubscribe(domain);
    this.#changed();
    return was;
  }

  /**
   * Be an app: be told before being killed, and asked to free memory (`notice`). A client is one app at most.
   *
   * Read in the grant what was given: class and unit may be less than asked for. Throws RequestRefusedError (`forbidden`,
   * `too_many`), BusyClientError where it is one already, InvalidArgumentError, and what every request does.
   */
  register(registration: Registration, { signal }: RequestOptions = {}): Promise<Grant> {
    const { name, appClass = "cached", sheddableBytes = 0, unit = "process" } = registration;
    return this.#request(
      (settle) => this.#session.register({ type: "register", name, appClass, sheddableBytes, unit }, settle),
      signal,
      () => this.#session.unregister(ignore),
    );
  }

  /**
   * Change what was registered: one at least of class, sheddable bytes and name. Resolves to the grant; undefined
   * while the daemon is away, which then hears of it when it is back. Throws ClosedClientError where this program is
   * no app, InvalidArgumentError, RequestRefusedError.
   */
  update(change: RegistrationChange, { signal }: RequestOptions = {}): Promise<Grant | undefined> {
    return this.#request((settle) => {
      if (!this.#session.update(change, settle)) settle(undefined, undefined);
    }, signal);
  }

  /** Be an app no more. */
  async unregister({ signal }: RequestOptions = {}): Promise<void> {
    await this.#request<unknown>((settle) => {
      if (!this.#session.unregister(settle)) settle(undefined, undefined);
    }, signal);
  }

  /**
   * Answer a notice, given as it came: `done`, `working` (once, for the grace once more) or `nothing`, and how many
   * bytes are free by now.
   *
   * Resolves to the ms that are left until its deadline; undefined where the one who sent the notice is gone. Throws
   * RequestRefusedError (`not_registered`, `unknown_notice`), InvalidArgumentError, BrokenReplyError.
   */
  ack(
    notice: Notice,
    answer: Answer = "done",
    freedBytes: Integer = 0,
    { signal }: RequestOptions = {},
  ): Promise<number | undefined> {
    return this.#request((settle) => {
      if (!this.#session.ack(notice, answer, freedBytes, settle)) settle(undefined, undefined);
    }, signal);
  }

  /**
   * Have `callback` shed for a notice; measure what that gave, and acknowledge it: `done` with the amount, `nothing`,
   * and `working` when half of the deadline has passed.
   *
   * Not for notices of level `normal`, which ask for nothing. Throws what the callback throws, once it is acknowledged,
   * and what `ack` does.
   */
  shed(notice: Notice, callback: Shed, options: ShedOptions = {}): Promise<Shedding> {
    return shedFor(notice, callback, (answer, freedBytes) => this.ack(notice, answer, freedBytes), options);
  }

  // --- what is asked once -----------------------------------------------------------------------------------
  // The results are maps for people and tools, with the keys of SPEC.md. Each throws what every request does.

  /** Ask how things stand: domains, levels, apps, what is missing. */
  status(options: RequestOptions = {}): Promise<Result> {
    return this.#ask({ type: "status" }, options);
  }

  /** Ask for past episodes, latest first; or for the records of one. Throws RequestRefusedError `unknown_episode`. */
  history({ episode, after, limit, signal }: { readonly episode?: Integer } & Part & RequestOptions = {}): Promise<Result> {
    return this.#ask({ type: "history", episode, after, limit }, { signal });
  }

  /**
   * Ask how a process would be treated, and why; or why that kill was made. One of the two is named.
   *
   * Throws RequestRefusedError (`unknown_process`, `unknown_kill`, `busy`).
   */
  explain({ pid, kill, signal }: { readonly pid?: number; readonly kill?: Integer } & RequestOptions): Promise<Result> {
    return this.#ask({ type: "explain", pid, kill }, { signal });
  }

  /** Ask for the rules in their order, and how many processes each was given to. */
  rules({ after, limit, signal }: Part & RequestOptions = {}): Promise<Result> {
    return this.#ask({ type: "rules", after, limit }, { signal });
  }

  /** Ask for the processes and their classes; or only for those that no rule speaks for. */
  processes({ unruled, after, limit, signal }: { readonly unruled?: boolean } & Part & RequestOptions = {}): Promise<Result> {
    return this.#ask({ type: "processes", unruled, after, limit }, { signal });
  }

  /**
   * Rehearse a level for `durationMs` (5000): all is said as if it were real, and nobody is killed. With scope `all`
   * it takes the controller. Throws RequestRefusedError (`forbidden`, `busy` where another is not over).
   */
  async simulate(
    level: Level,
    { scope, durationMs, signal }: { readonly scope?: Scope; readonly durationMs?: number } & RequestOptions = {},
  ): Promise<void> {
    await this.#ask({ type: "simulate", level, scope, durationMs }, { signal });
  }

  /** Give another app a class (controller). Throws RequestRefusedError (`forbidden`, `unknown_app`). */
  setClass(app: Integer, appClass: AppClass, { signal }: RequestOptions = {}): Promise<Grant> {
    const read = (result: Result) => readGrant("set_class", result);
    return this.#request((settle) => this.#session.ask({ type: "set_class", app, appClass }, read, settle), signal);
  }

  /** Have the daemon read its configuration again (controller). Throws RequestRefusedError (`forbidden`, `failed`). */
  reload(options: RequestOptions = {}): Promise<Result> {
    return this.#ask({ type: "reload" }, options);
  }

  /** Ask for the recordings that are kept, after what is in memory was saved (controller). */
  record({ save, signal }: { readonly save?: boolean } & RequestOptions = {}): Promise<Result> {
    return this.#ask({ type: "record", save }, { signal });
  }

  // --- its life ---------------------------------------------------------------------------------------------

  /** Keep the process alive. */
  ref(): this {
    return this.#setKeepAlive(true);
  }

  /** Let the process end, though this client is open. */
  unref(): this {
    return this.#setKeepAlive(false);
  }

  /** Leave for good. What waits for an answer is rejected with ClosedClientError; the iteration ends. */
  close(): void {
    this.#session.close();
    clearTimeout(this.#pause);
    this.#channel?.close();
    this.#channel = undefined;
    this.#changed();
  }

  /** What `await using` calls: as `close`. */
  async [ASYNC_DISPOSE](): Promise<void> {
    this.close();
  }

  /** Resolves when the daemon has greeted. @internal */
  async waitGreeted({ wait = false, signal }: ConnectOptions): Promise<void> {
    while (this.#session.welcome === undefined) {
      signal?.throwIfAborted();
      if (this.#session.over !== undefined) throw this.#session.over;
      if (this.#whyAway !== undefined && !wait) throw this.#whyAway;
      await new Promise<void>((resolve) => {
        const wake = () => {
          signal?.removeEventListener("abort", wake);
          this.#awaitGreeting.delete(wake);
          resolve();
        };
        signal?.addEventListener("abort", wake);
        this.#awaitGreeting.add(wake);
      });
    }
  }

  async #nextEvent(signal: AbortSignal | undefined): Promise<IteratorResult<Event, undefined>> {
    for (;;) {
      signal?.throwIfAborted();
      const event = this.#session.inbox.take();
      if (event !== undefined) return { done: false, value: event };
      const { over } = this.#session;
      if (over instanceof ClosedClientError) return { done: true, value: undefined };
      if (over !== undefined) throw over;
      if (this.#wakeIterator !== undefined) throw new BusyClientError("another loop waits for this client's events");
      await new Promise<void>((resolve) => {
        const wake = () => {
          signal?.removeEventListener("abort", wake);
          this.#wakeIterator = undefined;
          resolve();
        };
        signal?.addEventListener("abort", wake);
        this.#wakeIterator = wake;
      });
    }
  }

  #ask(question: Question, { signal }: RequestOptions): Promise<Result> {
    return this.#request((settle) => this.#session.ask(question, (result) => result, settle), signal);
  }

  /** Start a request, and promise its result. Given up, it is undone; its reply, if one comes, means nothing. */
  #request<T>(start: (settle: Settle<T>) => void, signal?: AbortSignal, undo?: () => void): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      signal?.throwIfAborted();
      const giveUp = () => {
        undo?.();
        this.#changed();
        reject(signal?.reason as Error);
      };
      start((error, result) => {
        signal?.removeEventListener("abort", giveUp);
        if (error === undefined) resolve(result);
        else reject(error);
      });
      signal?.addEventListener("abort", giveUp, { once: true });
      this.#changed();
    });
  }

  #open(): void {
    this.#session.path = this.#path ?? findSocket();
    this.#channel = new Channel(
      this.#session,
      () => this.#changed(),
      (end) => this.#away(end),
    );
    this.#channel.keepAlive(this.#keepAlive);
  }

  #away({ wasConnected, why, lastedMs }: ChannelEnd): void {
    this.#channel = undefined;
    this.#whyAway = wasConnected ? this.#session.lastLoss : new DaemonUnavailableError(this.#session.path, why);
    if (this.#session.over === undefined) {
      this.#pause = setTimeout(() => this.#open(), this.#backoff.nextPauseMs(lastedMs));
      if (!this.#keepAlive) this.#pause.unref();
    }
    this.#changed();
  }

  #setKeepAlive(keep: boolean): this {
    this.#keepAlive = keep;
    this.#channel?.keepAlive(keep);
    if (keep) this.#pause?.ref();
    else this.#pause?.unref();
    return this;
  }

  /** Send what is to be sent, and wake who waits. */
  #changed(): void {
    this.#channel?.flush();
    this.#wakeIterator?.();
    for (const wake of [...this.#awaitGreeting]) wake();
  }
}

function ignore(): void {
  // What comes of it changes nothing.
}
