/**
 * The messages of the protocol: their keys, once, as data, and their shapes for the compiler.
 *
 * A field names the wire's key, the attribute here, the kind of value and what absence means. Checking, encoding and
 * decoding all read these tables. Who may say what, and when, is for the session to say.
 */

import {
  ANSWERS,
  CLASSES,
  CODE,
  DOMAIN,
  DOMAIN_ASKED,
  FLAG,
  LEVELS,
  MAP,
  MAX_ID,
  OWN_CLASSES,
  PROPAGATIONS,
  SCOPES,
  UNITS,
  choice,
  integer,
  name,
  text,
} from "./values.js";
import type { Answer, AppClass, Integer, Kind, Level, OwnClass, Propagation, Result, Scope, Unit } from "./values.js";

export const PROTOCOL_VERSION = 1;

/** Stands for a key that has to be there. */
export const REQUIRED = Symbol("required");

/** One key of a message. An absent key means `absent`; undefined: its absence has a meaning of its own. */
export interface Field {
  readonly key: string;
  readonly attribute: string;
  readonly kind: Kind;
  readonly absent: unknown;
}

const MOST_63 = 2n ** 63n - 1n;
const IDENTITY = integer(0, MOST_63, "2^63-1");
const BYTES = integer(0, MOST_63, "2^63-1");
const DURATION = integer(0, 2 ** 31 - 1, "2^31-1");
const PID = integer(1, 2 ** 31 - 1, "2^31-1");
const PID_OR_NONE = integer(0, 2 ** 31 - 1, "2^31-1");
const VERSION = integer(1, 2 ** 31 - 1, "2^31-1");
const REQUEST_ID = integer(0, MAX_ID, "2^32-1");
const SKIPPED = integer(0, MOST_63, "2^63-1");
const ROWS = integer(1, 1000, "1000");
const TEXT = text(512);
const NAME = name(1);
const NAME_OR_EMPTY = name(0);
const LEVEL = choice(LEVELS);
const CLASS = choice(CLASSES);
const OWN_CLASS = choice(OWN_CLASSES);

/** Declare a key; without a default it is required. Undefined is a default too, so it cannot stand for there being none. */
function field(key: string, kind: Kind, ...defaults: readonly unknown[]): Field {
  const absent = defaults.length === 0 ? REQUIRED : defaults[0];
  const attribute = key === "class" ? "appClass" : key.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
  return { key, attribute, kind, absent };
}

const ID = field("id", REQUEST_ID);
const PAGE = [field("after", SKIPPED, 0), field("limit", ROWS, 20)];

/** What a client says, by type; the fields in the order in which they are written. */
export const REQUESTS: Readonly<Record<Request["type"], readonly Field[]>> = {
  hello: [ID, field("version", VERSION), field("name", NAME_OR_EMPTY, "")],
  subscribe: [ID, field("domain", DOMAIN_ASKED, "system"), field("propagation", choice(PROPAGATIONS), "local")],
  unsubscribe: [ID, field("domain", DOMAIN_ASKED, "system")],
  register: [
    ID,
    field("name", NAME),
    field("class", OWN_CLASS),
    field("sheddable_bytes", BYTES, 0),
    field("unit", choice(UNITS), "process"),
  ],
  update: [
    ID,
    field("class", OWN_CLASS, undefined),
    field("sheddable_bytes", BYTES, undefined),
    field("name", NAME, undefined),
  ],
  unregister: [ID],
  ack: [ID, field("notice", IDENTITY), field("answer", choice(ANSWERS)), field("freed_bytes", BYTES, 0)],
  status: [ID],
  history: [ID, field("episode", IDENTITY, undefined), ...PAGE],
  explain: [ID, field("pid", PID, undefined), field("kill", IDENTITY, undefined)],
  rules: [ID, ...PAGE],
  processes: [ID, field("unruled", FLAG, false), ...PAGE],
  simulate: [ID, field("level", LEVEL), field("scope", choice(SCOPES), "self"), field("duration_ms", DURATION, 5000)],
  set_class: [ID, field("app", IDENTITY), field("class", CLASS)],
  reload: [ID],
  record: [ID, field("save", FLAG, true)],
};

/** Where one key at least has to be there, and where only one may be. */
export const ONE_OF: { readonly [type: string]: { readonly most: number; readonly keys: readonly string[] } } = {
  update: { most: 3, keys: ["class", "sheddable_bytes", "name"] },
  explain: { most: 1, keys: ["pid", "kill"] },
};

/** What the server says, by type. */
export const ANSWERED: Readonly<Record<Message["type"], readonly Field[]>> = {
  welcome: [ID, field("version", VERSION), field("server", NAME), field("controller", FLAG)],
  ok: [ID, field("result", MAP, {})],
  error: [field("id", REQUEST_ID, null), field("code", CODE), field("message", TEXT)],
  pressure: [
    field("domain", DOMAIN),
    field("level", LEVEL),
    field("reason", TEXT),
    field("available_bytes", BYTES),
    field("simulated", FLAG, false),
  ],
  notice: [
    field("notice", IDENTITY),
    field("domain", DOMAIN),
    field("level", LEVEL),
    field("target_bytes", BYTES),
    field("deadline_ms", DURATION),
    field("reason", TEXT),
    field("emergency", FLAG, false),
    field("simulated", FLAG, false),
  ],
  kill_warning: [field("reason", TEXT), field("time_to_exit_ms", DURATION)],
  killed: [
    field("domain", DOMAIN),
    field("pid", PID_OR_NONE),
    field("name", NAME_OR_EMPTY),
    field("class", CLASS),
    field("reason", TEXT),
    field("freed_bytes", BYTES),
  ],
  bye: [field("reason", TEXT)],
};

/** The tables of those results that have one (SPEC Q-2). */
export const REGISTRATION: readonly Field[] = [
  field("app", IDENTITY),
  field("class", CLASS),
  field("unit", choice(UNITS)),
  field("domain", DOMAIN),
  field("grace_ms", DURATION),
  field("time_to_exit_ms", DURATION),
];
export const ACKNOWLEDGED: readonly Field[] = [field("deadline_ms", DURATION)];
/** A server from before subscriptions had a result answers with an empty one (SPEC Q-3). */
export const SUBSCRIBED: readonly Field[] = [
  field("domain", DOMAIN, undefined),
  field("propagation", choice(PROPAGATIONS), "local"),
];

// --- what a client says; the id is the session's ------------------------------------------------------------

export type Request =
  | { readonly type: "hello"; readonly version: number; readonly name: string }
  | { readonly type: "subscribe"; readonly domain: string; readonly propagation: Propagation }
  | { readonly type: "unsubscribe"; readonly domain: string }
  | RegisterRequest
  | ({ readonly type: "update" } & RegistrationChange)
  | { readonly type: "unregister" }
  | { readonly type: "ack"; readonly notice: Integer; readonly answer: Answer; readonly freedBytes: Integer }
  | Question;

/** What is asked once, and leaves nothing behind that a new connection would have to say again. */
export type Question =
  | { readonly type: "status" | "reload" }
  | ({ readonly type: "history"; readonly episode?: Integer | undefined } & Part)
  | { readonly type: "explain"; readonly pid?: number | undefined; readonly kill?: Integer | undefined }
  | ({ readonly type: "rules" } & Part)
  | ({ readonly type: "processes"; readonly unruled?: boolean | undefined } & Part)
  | {
      readonly type: "simulate";
      readonly level: Level;
      readonly scope?: Scope | undefined;
      readonly durationMs?: number | undefined;
    }
  | { readonly type: "set_class"; readonly app: Integer; readonly appClass: AppClass }
  | { readonly type: "record"; readonly save?: boolean | undefined };

/** Which part of a list: how many entries to skip (0), and how many there are at most (20; 1 to 1000). */
export interface Part {
  readonly after?: Integer | undefined;
  readonly limit?: number | undefined;
}

export interface RegisterRequest {
  readonly type: "register";
  readonly name: string;
  readonly appClass: OwnClass;
  readonly sheddableBytes: Integer;
  readonly unit: Unit;
}

/** What an app may change. What is absent stays as it is. */
export interface RegistrationChange {
  readonly appClass?: OwnClass | undefined;
  readonly sheddableBytes?: Integer | undefined;
  readonly name?: string | undefined;
}

// --- what the server says -----------------------------------------------------------------------------------

export type Message = Welcome | Ok | Refusal | Pressure | Notice | KillWarning | Killed | Bye;

export interface Welcome {
  readonly type: "welcome";
  readonly id: number;
  /** The version that both speak. */
  readonly version: number;
  /** Name and version of the daemon, for people. */
  readonly server: string;
  /** Whether this client may do what takes the controller. */
  readonly controller: boolean;
}

export interface Ok {
  readonly type: "ok";
  readonly id: number;
  readonly result: Result;
}

export interface Refusal {
  readonly type: "error";
  /** Null where it could not be read. */
  readonly id: number | null;
  readonly code: string;
  readonly message: string;
}

/** A subscribed domain's level, as it is now. */
export interface Pressure {
  readonly type: "pressure";
  /** `system`, or the path of a cgroup. */
  readonly domain: string;
  readonly level: Level;
  /** Why, for people. */
  readonly reason: string;
  /** How much could still be taken. */
  readonly availableBytes: Integer;
  /** Whether it is a rehearsal. */
  readonly simulated: boolean;
}

/** To this app: free memory. A later one takes the place of all before it. */
export interface Notice {
  readonly type: "notice";
  /** Its number; `ack` takes the notice itself. */
  readonly notice: Integer;
  readonly domain: string;
  readonly level: Level;
  /** How much this app is asked to free; 0 where it declared nothing. */
  readonly targetBytes: Integer;
  /** How long it has, from the receipt. */
  readonly deadlineMs: number;
  readonly reason: string;
  /** There is no time: the deadline is 0. */
  readonly emergency: boolean;
  readonly simulated: boolean;
}

/** To this app: SIGTERM comes with it, and SIGKILL after `timeToExitMs`. */
export interface KillWarning {
  readonly type: "kill_warning";
  readonly reason: string;
  readonly timeToExitMs: number;
}

/** To a domain's subscribers: what died, and why. */
export interface Killed {
  readonly type: "killed";
  readonly domain: string;
  /** 0 for a cgroup as a whole. */
  readonly pid: number;
  readonly name: string;
  readonly appClass: AppClass;
  readonly reason: string;
  /** What its end gave back, as measured. */
  readonly freedBytes: Integer;
}

export interface Bye {
  readonly type: "bye";
  readonly reason: string;
}

/** What an app was granted; class and unit may be less than it asked for (SPEC P-2, P-3). */
export interface Grant {
  /** The app's number, for `setClass` and in `status`. */
  readonly app: Integer;
  readonly appClass: AppClass;
  readonly unit: Unit;
  /** Whose levels it is told. */
  readonly domain: string;
  /** From a notice to the moment it may be killed. */
  readonly graceMs: number;
  /** From SIGTERM to SIGKILL. */
  readonly timeToExitMs: number;
}

/** What is heard from now on. */
export interface Subscribed {
  /** The domain that was meant: for `own` the path that it stands for. */
  readonly domain: string;
  readonly propagation: Propagation;
}
