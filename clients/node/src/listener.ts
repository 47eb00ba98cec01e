/**
 * A program that listens: `onPressure` has a callback called with each notice, and answers it by what that gave.
 *
 * Where there is no lmkd it tries again, with growing pauses and without a word, for as long as the process lives; it
 * does not keep that alive. One notice is answered at a time, and of those that come meanwhile only the latest is
 * kept. In a worker thread it is a program of its own.
 */

import { Backoff } from "./backoff.js";
import { ASYNC_DISPOSE, Client } from "./client.js";
import type { ClientOptions, Registration, RequestOptions } from "./client.js";
import { checkRequest } from "./codec.js";
import { BrokenReplyError, BusyClientError, ClosedClientError, InvalidArgumentError, LmkdError, RequestRefusedError } from "./errors.js";
import { prepareToCollect } from "./held-memory.js";
import type { Grant, KillWarning, Notice, RegistrationChange } from "./messages.js";
import type { Shed, ShedOptions, Shedding } from "./shedding.js";
import { show } from "./values.js";
import type { Level } from "./values.js";

const REHEARSAL_MS = 1000;
/** After this a rehearsal is asked for again, where the daemon has not quite ended the one before. */
const BUSY_PAUSE_MS = 20;

export interface ListenOptions extends Registration, ShedOptions {
  /** The daemon's socket; if nothing is said, what `findSocket` finds at each try. */
  readonly path?: string | undefined;
  /** Whether this keeps the process alive (false). */
  readonly keepAlive?: boolean | undefined;
  /** The pauses before a try to connect, or to register, is made again. */
  readonly backoff?: ClientOptions["backoff"];
  /** Closes the listener. */
  readonly signal?: AbortSignal | undefined;
  /** Called when SIGTERM is on its way. */
  readonly onKillWarning?: ((warning: KillWarning) => void) | undefined;
  /** Called with what the callback throws, and with what the daemon refuses; else it is a warning of the process. */
  readonly onError?: ((error: unknown) => void) | undefined;
}

/**
 * Have `callback(notice)` called whenever this program is asked to free memory; measure what that gave, and answer.
 *
 *     onPressure({ name: "thumbnails" }, () => cache.clear());
 *
 * It registers as soon as there is a daemon, and again when one was restarted. A notice of level `normal` does not call
 * it. While the callback is at it and half of the deadline has passed, `working` is said, once. Throws
 * InvalidArgumentError, at once.
 */
export function onPressure(options: ListenOptions, callback: Shed): Listener {
  return new Listener(options, callback);
}

/** Made by `onPressure`. */
export class Listener {
  readonly #options: ListenOptions;
  readonly #callback: Shed;
  readonly #client: Client;
  readonly #backoff: Backoff;
  #wanted: Registration;
  #retry: NodeJS.Timeout | undefined;
  #keepAlive: boolean;
  #reported = "";
  #registered: (() => void)[] = [];
  #rehearsal: Rehearsal | undefined;

  /** @internal */
  constructor(options: ListenOptions, callback: Shed) {
    if (typeof options !== "object" || options === null || typeof callback !== "function") {
      throw new InvalidArgumentError(
        `onPressure: expected options and a function; got ${show(options)} and ${show(callback)}`,
      );
    }
    const { name, appClass = "cached", sheddableBytes = 0, unit = "process", path, backoff, signal } = options;
    checkRequest({ type: "register", name, appClass, sheddableBytes, unit });
    this.#wanted = { name, appClass, sheddableBytes, unit };
    this.#options = options;
    this.#callback = callback;
    this.#keepAlive = options.keepAlive ?? false;
    this.#backoff = new Backoff(backoff);
    this.#client = new Client({ path, name, backoff, keepAlive: this.#keepAlive });
    if (options.collectGarbage !== false) void prepareToCollect();
    if (signal?.aborted) this.close();
    signal?.addEventListener("abort", () => this.close(), { once: true });
    void this.#run();
  }

  /** The level that this program was told last; `normal` while there is no daemon. */
  get level(): Level {
    return this.#client.level;
  }

  /** What was granted; undefined while this program is not registered. */
  get grant(): Grant | undefined {
    return this.#client.grant;
  }

  /** Change what was registered; said at once, or as soon as there is a daemon. Throws InvalidArgumentError. */
  async update(change: RegistrationChange): Promise<void> {
    checkRequest({ type: "update", ...change });
    const { name, appClass, sheddableBytes } = change;
    const { unit } = this.#wanted;
    this.#wanted = {
      name: name ?? this.#wanted.name,
      appClass: appClass ?? this.#wanted.appClass,
      sheddableBytes: sheddableBytes ?? this.#wanted.sheddableBytes,
      unit,
    };
    if (this.#client.isApp) await this.#client.update(change);
  }

  /**
   * Rehearse a level with this program, which is told of it alone, really sheds, and is not killed. Resolves when it
   * is over, after `durationMs` (1000) at least, to what this program did; where real pressure takes its place, that is
   * what comes of it.
   *
   * Waits for a daemon where there is none: `signal` (AbortSignal.timeout) says for how long, and the process is kept
   * alive. Throws ConnectionLostError, RequestRefusedError, ClosedClientError, BusyClientError.
   */
  async simulate(
    level: Exclude<Level, "normal">,
    { durationMs = REHEARSAL_MS, signal }: RequestOptions & { readonly durationMs?: number } = {},
  ): Promise<Shedding> {
    checkRequest({ type: "simulate", level, durationMs });
    if ((level as Level) === "normal") {
      throw new InvalidArgumentError("simulate: normal asks for nothing; expected low, medium or critical");
    }
    if (this.#rehearsal !== undefined) throw new BusyClientError("simulate: this listener rehearses already");
    const rehearsal = new Rehearsal();
    this.#rehearsal = rehearsal;
    // Somebody waits, so the process is not to end meanwhile.
    this.#client.ref();
    try {
      await this.#whenRegistered(signal);
      while (!(await this.#begin(level, durationMs, signal))) {
        await new Promise((resolve) => setTimeout(resolve, BUSY_PAUSE_MS));
      }
      return await rehearsal.wait(signal);
    } finally {
      this.#rehearsal = undefined;
      this.#setKeepAlive(this.#keepAlive);
    }
  }

  /** Keep the process alive. */
  ref(): this {
    return this.#setKeepAlive(true);
  }

  /** Let the process end, though this listens. That is so from the start, unless `keepAlive` says otherwise. */
  unref(): this {
    return this.#setKeepAlive(false);
  }

  /** Listen no more. A callback that is at it comes to its end, and is not answered for. */
  close(): void {
    clearTimeout(this.#retry);
    this.#client.close();
    this.#rehearsal?.fail(new ClosedClientError("this listener is closed"));
    this.#tellRegistered();
  }

  /** What `await using` calls: as `close`. */
  async [ASYNC_DISPOSE](): Promise<void> {
    this.close();
  }

  async #run(): Promise<void> {
    try {
      for await (const event of this.#client) {
        if (event.type === "connected") this.#register();
        else if (event.type === "registered") this.#tellRegistered();
        else if (event.type === "refused") this.#tryLater(event.error);
        else if (event.type === "lost") this.#rehearsal?.fail(event.error);
        else if (event.type === "kill_warning") this.#warn(event);
        else if (event.type === "notice") await this.#answer(event);
      }
    } catch (error) {
      // Of another version: the daemon's answer would be the same each time.
      this.#report(error);
      this.close();
    }
  }

  #warn(warning: KillWarning): void {
    try {
      this.#options.onKillWarning?.(warning);
    } catch (error) {
      this.#report(error);
    }
  }

  async #answer(notice: Notice): Promise<void> {
    this.#rehearsal?.told(notice);
    if (notice.level === "normal") return;
    try {
      const shedding = await this.#client.shed(notice, this.#callback, this.#options);
      this.#rehearsal?.answered(shedding);
    } catch (error) {
      // Lost meanwhile, or overtaken by a later notice that is on its way: that is no mistake of anybody.
      const isMistake = !(error instanceof LmkdError) || error instanceof InvalidArgumentError;
      if (isMistake) this.#report(error);
    }
  }

  #register(): void {
    if (this.#client.isApp || this.#client.server === undefined) return;
    this.#client.register(this.#wanted).catch((error: unknown) => {
      // What is lost or away is tried again with the next connection.
      if (error instanceof RequestRefusedError || error instanceof BrokenReplyError) this.#tryLater(error);
    });
  }

  /** What is refused may be granted later: there may be fewer apps then. */
  #tryLater(error: unknown): void {
    this.#report(error);
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#register(), this.#backoff.nextPauseMs());
    if (!this.#keepAlive) this.#retry.unref();
  }

  async #whenRegistered(signal: AbortSignal | undefined): Promise<void> {
    while (this.#client.grant === undefined) {
      signal?.throwIfAborted();
      if (this.#client.isClosed) throw new ClosedClientError("this listener is closed");
      await new Promise<void>((resolve) => {
        this.#registered.push(resolve);
        signal?.addEventListener("abort", () => resolve(), { once: true });
      });
    }
  }

  #tellRegistered(): void {
    const registered = this.#registered;
    this.#registered = [];
    for (const tell of registered) tell();
  }

  /** Ask for a rehearsal; false where the one before is not quite over. */
  async #begin(level: Level, durationMs: number, signal: AbortSignal | undefined): Promise<boolean> {
    try {
      await this.#client.simulate(level, { durationMs, ...(signal && { signal }) });
      return true;
    } catch (error) {
      if (error instanceof RequestRefusedError && error.code === "busy") return false;
      throw error;
    }
  }

  #setKeepAlive(keep: boolean): this {
    this.#keepAlive = keep;
    if (keep) this.#retry?.ref();
    else this.#retry?.unref();
    if (keep) this.#client.ref();
    else this.#client.unref();
    return this;
  }

  /** Tell of an error, and of the same one in a row only once. */
  #report(error: unknown): void {
    const said = String(error);
    if (said === this.#reported) return;
    this.#reported = said;
    if (this.#options.onError !== undefined) this.#options.onError(error);
    else process.emitWarning(error instanceof Error ? error : said);
  }
}

/** A rehearsal that somebody waits for. It is over when a later word has taken the place of its notice. */
class Rehearsal {
  #shedding: Shedding | undefined;
  #error: Error | undefined;
  #over = false;
  #wake: (() => void) | undefined;

  told(notice: Notice): void {
    if (this.#shedding !== undefined && !notice.simulated) this.#over = true;
    this.#wake?.();
  }

  answered(shedding: Shedding): void {
    if (shedding.notice.simulated) this.#shedding = shedding;
  }

  fail(error: Error): void {
    this.#error ??= error;
    this.#wake?.();
  }

  async wait(signal: AbortSignal | undefined): Promise<Shedding> {
    for (;;) {
      signal?.throwIfAborted();
      if (this.#over && this.#shedding !== undefined) return this.#shedding;
      if (this.#error !== undefined) throw this.#error;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        signal?.addEventListener("abort", () => resolve(), { once: true });
      });
    }
  }
}
