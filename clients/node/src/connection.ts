/**
 * The client's side of one conversation, without any input or output: bytes that came to messages.
 *
 * Knows which message may come in which state (SPEC.md, Handshake), and not which reply belongs to which request.
 * A mistake that the stream survives is a Malformed; one that it does not, a frame of a forbidden length, ends it.
 */

import { UnknownMessage, decode } from "./codec.js";
import { RemoteProtocolError } from "./errors.js";
import { FrameReader } from "./framing.js";
import type { Message } from "./messages.js";

type State = "greeting" | "refused" | "open" | "closed";

/** A frame that means nothing, or a message that may not come now; the id of a reply, where it could be read. */
export class Malformed {
  constructor(
    readonly message: string,
    readonly id: number | null,
  ) {}
}

export class Connection {
  /** Why the stream cannot go on, once that is so. */
  fault: RemoteProtocolError | undefined;
  readonly #reader = new FrameReader();
  #state: State = "greeting";

  /** Give what is in these bytes, one by one. What follows a `bye`, or a forbidden length, is dropped. */
  *receive(chunk: Uint8Array): Generator<Message | Malformed, void, undefined> {
    try {
      if (this.#state === "closed") return;
      for (const payload of this.#reader.read(chunk)) {
        const message = this.#take(payload);
        if (message !== undefined) yield message;
        if ((this.#state as State) === "closed") return;
      }
    } catch (error) {
      if (!(error instanceof RemoteProtocolError)) throw error;
      this.#state = "closed";
      this.fault = error;
    }
  }

  #take(payload: Uint8Array): Message | Malformed | undefined {
    let message: Message | UnknownMessage;
    try {
      message = decode(payload);
    } catch (error) {
      if (!(error instanceof RemoteProtocolError)) throw error;
      return new Malformed(error.message, error.requestId);
    }
    if (message instanceof UnknownMessage) return undefined; // for a later version of us
    if (!this.#mayCome(message)) {
      return new Malformed(`${message.type} may not come ${this.#state === "open" ? "now" : "before welcome"}`, null);
    }
    return message;
  }

  #mayCome(message: Message): boolean {
    switch (message.type) {
      case "bye":
        this.#state = "closed";
        return true;
      case "welcome":
        if (this.#state !== "greeting") return false;
        this.#state = "open";
        return true;
      case "error":
        // Without an id it need not be the answer to hello: too_many comes before that was read.
        if (this.#state === "greeting" && message.id !== null) this.#state = "refused";
        return true;
      default:
        return this.#state === "open";
    }
  }
}
