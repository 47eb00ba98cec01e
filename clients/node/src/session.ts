/**
 * One program's side of lmkd, whatever moves the bytes: the core that the client's shell wraps.
 *
 * It matches replies to requests, and keeps what this program wants (its subscriptions, its registration), so that a
 * new connection says all of it again. It knows no socket, no clock and no promise.
 *
 * - What came over one connection means nothing over the next: a notice of an earlier one is never acknowledged,
 *   though a restarted daemon may use its number again.
 * - A reply that never came is an error for the one who waits for it, unless it only says what this program wants, and
 *   that is said again anyway.
 * - `over` says why there will be no further conversation; until then the shell is to connect again when it is away.
 */

import { checkRequest, encode } from "./codec.js";
import { Connection, Malformed } from "./connection.js";
import {
  BrokenReplyError,
  BusyClientError,
  ClosedClientError,
  ConnectionLostError,
  DaemonUnavailableError,
  InvalidArgumentError,
  RequestRefusedError,
} from "./errors.js";
import type { LmkdError } from "./errors.js";
import { DOMAINS_MOST, Inbox } from "./inbox.js";
import { ACKNOWLEDGED, PROTOCOL_VERSION } from "./messages.js";
import type {
  Grant,
  Killed,
  Message,
  Notice,
  Pressure,
  Question,
  RegisterRequest,
  RegistrationChange,
  Request,
  Subscribed,
  Welcome,
} from "./messages.js";
import { readGrant, readResult, readSubscribed, settleWith } from "./replies.js";
import type { Heard, Reply, Settle, Subscription } from "./replies.js";
import { MAX_ID, isBelow } from "./values.js";
import type { Answer, Integer, Level, Propagation, Result } from "./values.js";

/** This program as an app. */
interface App {
  wanted: RegisterRequest;
}

export class Session {
  readonly inbox = new Inbox();
  /** Where the daemon is looked for; the shell's to say, for messages. */
  path = "";
  over: LmkdError | undefined;
  welcome: Welcome | undefined;
  lastLoss: ConnectionLostError | undefined;
  /** What was granted last; undefined while this program is not registered. */
  grant: Grant | undefined;
  /** The level of the last notice. */
  level: Level = "normal";

  readonly #name: string;
  readonly #reconnect: boolean;
  #connection: Connection | undefined;
  #outgoing: Uint8Array[] = [];
  #heard = new Map<number, Heard>();
  #lastId = 0;
  #lastWord: string | undefined;
  #app: App | undefined;
  #given = new WeakSet<Notice>();
  readonly #subscriptions = new Map<string, Subscription>();
  /** Domains below a subscribed one whose last word was not `normal`. */
  #aboveNormal = new Set<string>();
  /** The same of the connection before, until they are told again or have ended. */
  #toldBefore = new Set<string>();

  constructor(name: string, reconnect: boolean) {
    // A name that cannot be said is the caller's mistake, now.
    checkRequest({ type: "hello", version: PROTOCOL_VERSION, name });
    this.#name = name;
    this.#reconnect = reconnect;
  }

  // --- the connection, as the shell sees it -----------------------------------------------------------------

  get isAway(): boolean {
    return this.#connection === undefined;
  }

  /** Whether this program wants to be an app, be it registered by now or not. */
  get isApp(): boolean {
    return this.#app !== undefined;
  }

  /** Give what is to be sent now, once. */
  takeOutgoing(): Uint8Array[] {
    const outgoing = this.#outgoing;
    this.#outgoing = [];
    return outgoing;
  }

  /** Say that a new connection stands: say hello, and all that this program wants. */
  connected(): void {
    this.#connection = new Connection();
    this.#lastWord = undefined;
    this.#toldBefore = new Set([...this.#toldBefore, ...this.#aboveNormal].slice(-DOMAINS_MOST));
    this.#aboveNormal = new Set();
    this.#say({ type: "hello", version: PROTOCOL_VERSION, name: this.#name }, (answer) => this.#hearWelcome(answer));
    for (const subscription of this.#subscriptions.values()) this.#saySubscribe(subscription);
    if (this.#app !== undefined) this.#sayRegister(this.#app);
  }

  /** Take bytes as they were read. */
  receive(chunk: Uint8Array): void {
    const connection = this.#connection;
    if (connection === undefined) return;
    for (const message of connection.receive(chunk)) {
      if (message instanceof Malformed) this.#takeMalformed(message);
      else this.#take(message);
      if (this.#connection !== connection) return;
    }
    if (connection.fault !== undefined) this.lost(`it broke the protocol: ${connection.fault.message}`);
  }

  /** Say that the connection has ended. What the daemon said last, if it did, is a better reason than the shell's. */
  lost(why: string): void {
    if (this.#connection === undefined) return;
    const error = new ConnectionLostError(this.path, this.#lastWord ?? why);
    this.#connection = undefined;
    this.welcome = undefined;
    this.lastLoss = error;
    this.#outgoing = [];
    this.grant = undefined;
    this.level = "normal";
    this.#given = new WeakSet();
    const heard = this.#heard;
    this.#heard = new Map();
    this.inbox.put({ type: "lost", error });
    for (const hear of heard.values()) hear(error);
    if (!this.#reconnect) this.#end(error);
  }

  /** End for good, by the wish of this program. */
  close(): void {
    this.#end(new ClosedClientError("this client is closed"));
    this.inbox.clear();
  }

  // --- what a program asks ----------------------------------------------------------------------------------

  /** Ask something once; `read` may throw BrokenReplyError. */
  ask<T>(question: Question, read: (result: Result) => T, settle: Settle<T>): void {
    this.#ask(question, read, settle);
  }

  /** Hear of a domain, over this connection and those that follow. */
  subscribe(domain: string, propagation: Propagation, settle: Settle<Subscribed>): void {
    const request: Request = { type: "subscribe", domain, propagation };
    checkRequest(request);
    if (this.over !== undefined) throw this.over;
    if (this.#subscriptions.has(domain)) {
      throw new BusyClientError(`this client subscribes to '${domain}' already`);
    }
    const subscription: Subscription = { domain, propagation, path: domain };
    this.#ask(
      request,
      (result) => readSubscribed(subscription, result),
      (error, subscribed) => {
        if (error !== undefined && this.#subscriptions.get(domain) === subscription) this.#subscriptions.delete(domain);
        settle(error, subscribed);
      },
    );
    // Now, not at the reply: a connection that is lost before it says it again.
    this.#subscriptions.set(domain, subscription);
  }

  /** Hear no more of a domain. Return whether it was subscribed; nothing waits for the reply, which changes nothing. */
  unsubscribe(domain: string): boolean {
    const subscription = this.#subscriptions.get(domain);
    if (subscription === undefined) return false;
    this.#subscriptions.delete(domain);
    this.inbox.dropDomains((domain) => !this.#isHeard(domain));
    if (this.#connection !== undefined) this.#say({ type: "unsubscribe", domain }, ignore);
    return true;
  }

  /** Be an app, over this connection and those that follow. */
  register(wanted: RegisterRequest, settle: Settle<Grant>): void {
    checkRequest(wanted);
    if (this.over !== undefined) throw this.over;
    if (this.#app !== undefined) throw new BusyClientError("this client has registered already; a client is one app");
    const app: App = { wanted };
    this.#ask(
      wanted,
      (result) => this.#takeGrant(app, result),
      (error, grant) => {
        if (error !== undefined && this.#app === app) this.#app = undefined;
        settle(error, grant);
      },
    );
    this.#app = app;
  }

  /** Change what was registered; false while the daemon is away: then it will be said when that is back. */
  update(change: RegistrationChange, settle: Settle<Grant | undefined>): boolean {
    const request: Request = { type: "update", ...change };
    checkRequest(request);
    if (this.over !== undefined) throw this.over;
    const app = this.#app;
    if (app === undefined) throw new ClosedClientError("update: this program has not registered");
    app.wanted = {
      type: "register",
      name: change.name ?? app.wanted.name,
      appClass: change.appClass ?? app.wanted.appClass,
      sheddableBytes: change.sheddableBytes ?? app.wanted.sheddableBytes,
      unit: app.wanted.unit,
    };
    if (this.#connection === undefined) return false;
    this.#ask(request, (result) => this.#takeGrant(app, result), settle, true);
    return true;
  }

  /** Be an app no more; false where there is nobody to tell. */
  unregister(settle: Settle<unknown>): boolean {
    if (this.#app === undefined) return false;
    this.#app = this.grant = undefined;
    this.level = "normal";
    this.#given = new WeakSet();
    this.inbox.dropApp();
    if (this.#connection === undefined) return false;
    this.#ask({ type: "unregister" }, (result) => result, settle, true);
    return true;
  }

  /** Answer a notice; false where it came over an earlier connection, and nobody waits for an answer. */
  ack(notice: Notice, answer: Answer, freedBytes: Integer, settle: Settle<number | undefined>): boolean {
    if (typeof notice !== "object" || notice === null || notice.type !== "notice") {
      throw new InvalidArgumentError("ack: expected the notice itself, as it came");
    }
    const request = { type: "ack", notice: notice.notice, answer, freedBytes } as const;
    checkRequest(request);
    if (this.over !== undefined) throw this.over;
    if (!this.#given.has(notice)) return false;
    this.#ask(request, (result) => readResult("ack", ACKNOWLEDGED, result)["deadlineMs"] as number, settle, true);
    return true;
  }

  // --- requests and their replies ---------------------------------------------------------------------------

  /** Send a request. A `repeated` one may be lost with its connection: then the result is undefined. */
  #ask<T>(request: Request, read: (result: Result) => T, settle: Settle<T>, repeated = false): void {
    checkRequest(request);
    if (this.over !== undefined) throw this.over;
    if (this.#connection === undefined) {
      throw new DaemonUnavailableError(this.path, "the connection was lost and is not back yet");
    }
    this.#say(request, (answer) => {
      if (answer instanceof ConnectionLostError && repeated && this.#reconnect) settle(undefined, undefined as T);
      else settleWith(request.type, answer, read, settle);
    });
  }

  #say(request: Request, heard: Heard): void {
    const id = this.#nextId();
    this.#outgoing.push(encode(request, id));
    this.#heard.set(id, heard);
  }

  #nextId(): number {
    do {
      this.#lastId = this.#lastId === MAX_ID ? 1 : this.#lastId + 1;
    } while (this.#heard.has(this.#lastId));
    return this.#lastId;
  }

  #saySubscribe(subscription: Subscription): void {
    const { domain, propagation } = subscription;
    const pathBefore = subscription.path;
    subscription.path = domain; // `own` may stand for another path by now
    this.#say({ type: "subscribe", domain, propagation }, (answer) => {
      settleWith(
        "subscribe",
        answer,
        (result) => readSubscribed(subscription, result),
        (error) => {
          if (error instanceof ConnectionLostError || this.#subscriptions.get(domain) !== subscription) return;
          if (error === undefined) {
            this.#endUntold(pathBefore);
          } else {
            this.#subscriptions.delete(domain);
            this.inbox.put({ type: "refused", request: "subscribe", domain, error });
          }
        },
      );
    });
  }

  /** Levels below that an earlier connection told have ended, unless they are told again now (SPEC L-22). */
  #endUntold(path: string): void {
    for (const domain of this.#toldBefore) {
      if (!isBelow(domain, path)) continue;
      this.#toldBefore.delete(domain);
      const reason = "the daemon came back, and tells it no more";
      this.inbox.put({ type: "pressure", domain, level: "normal", reason, availableBytes: 0, simulated: false });
    }
  }

  #sayRegister(app: App): void {
    this.#say(app.wanted, (answer) => {
      settleWith(
        "register",
        answer,
        (result) => this.#takeGrant(app, result),
        (error) => {
          if (error === undefined || error instanceof ConnectionLostError || this.#app !== app) return;
          this.#app = undefined;
          this.inbox.put({ type: "refused", request: "register", error });
        },
      );
    });
  }

  #takeGrant(app: App, result: Result): Grant {
    const grant = readGrant("register", result);
    if (this.#app === app) {
      this.grant = grant;
      this.inbox.put({ type: "registered", grant });
    }
    return grant;
  }

  #hearWelcome(answer: Reply): void {
    if (answer instanceof RequestRefusedError) {
      // Another version: to connect again would only be refused again. What else there may be may pass.
      if (answer.code === "bad_version") this.#end(answer);
      else this.lost(answer.message);
    } else if ("type" in answer && answer.type === "welcome") {
      if (answer.version === PROTOCOL_VERSION) {
        this.welcome = answer;
        this.inbox.put({ type: "connected", server: answer.server, controller: answer.controller });
      } else {
        this.lost(`it broke the protocol: welcome to version ${answer.version}, where ${PROTOCOL_VERSION} was offered`);
      }
    }
  }

  // --- what comes -------------------------------------------------------------------------------------------

  #take(message: Message): void {
    switch (message.type) {
      case "welcome":
      case "ok":
        this.#answer(message.id, message);
        break;
      case "error":
        if (message.id === null) this.#lastWord = `${message.code}: ${message.message}`;
        else this.#answer(message.id, new RequestRefusedError(message.code, message.message));
        break;
      case "pressure":
      case "killed":
        this.#deliver(message);
        break;
      case "notice":
        if (this.#app === undefined) break;
        this.level = message.level;
        this.#given.add(message);
        this.inbox.put(message);
        break;
      case "kill_warning":
        if (this.#app !== undefined) this.inbox.put(message);
        break;
      case "bye":
        this.lost(`it left: ${message.reason}`);
    }
  }

  /** What means nothing is passed over, but where it was a reply nobody is to wait for another one. */
  #takeMalformed(malformed: Malformed): void {
    this.inbox.put({ type: "malformed", message: malformed.message });
    if (malformed.id !== null) this.#answer(malformed.id, new BrokenReplyError(malformed.message));
  }

  #deliver(message: Pressure | Killed): void {
    if (!this.#isHeard(message.domain)) return;
    if (message.type === "pressure") {
      this.#aboveNormal.delete(message.domain);
      this.#toldBefore.delete(message.domain);
      if (message.level !== "normal" && !this.#isSubscribed(message.domain)) {
        this.#aboveNormal.add(message.domain);
        if (this.#aboveNormal.size > DOMAINS_MOST) {
          for (const oldest of this.#aboveNormal) {
            this.#aboveNormal.delete(oldest);
            break;
          }
        }
      }
    }
    this.inbox.put(message);
  }

  #isSubscribed(domain: string): boolean {
    return [...this.#subscriptions.values()].some((subscription) => subscription.path === domain);
  }

  /** Whether a message about this domain may be for one of the subscriptions; what was unsubscribed may still come. */
  #isHeard(domain: string): boolean {
    return [...this.#subscriptions.values()].some(
      ({ path, propagation }) => domain === path || (propagation !== "local" && isBelow(domain, path)),
    );
  }

  #answer(id: number, answer: Reply): void {
    const hear = this.#heard.get(id);
    this.#heard.delete(id);
    hear?.(answer);
  }

  #end(error: LmkdError): void {
    if (this.over !== undefined) return;
    this.over = error;
    this.#connection = undefined;
    this.welcome = this.grant = undefined;
    this.#outgoing = [];
    const heard = this.#heard;
    this.#heard = new Map();
    for (const hear of heard.values()) hear(error);
  }
}

function ignore(): void {
  // A reply that changes nothing.
}
