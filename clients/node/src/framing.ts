/**
 * Cut a stream of bytes into frames, and put frames into it.
 *
 * A frame is four bytes of length, big-endian, and then that many bytes of payload, 1 to 65,536. What a payload means
 * is not known here. A forbidden length is reported as soon as its four bytes are there; between frames nothing is kept.
 */

import { InvalidArgumentError, RemoteProtocolError } from "./errors.js";
import { MAX_FRAME_BYTES } from "./values.js";

const LENGTH_BYTES = 4;

/** Put the length before a payload. */
export function encodeFrame(payload: Uint8Array): Uint8Array {
  const length = payload.length;
  if (length < 1 || length > MAX_FRAME_BYTES) {
    throw new InvalidArgumentError(`a frame holds 1 to ${MAX_FRAME_BYTES} bytes, not ${length}`);
  }
  const frame = new Uint8Array(LENGTH_BYTES + length);
  new DataView(frame.buffer).setUint32(0, length);
  frame.set(payload, LENGTH_BYTES);
  return frame;
}

/** Collects bytes and gives back whole payloads. After a forbidden length it is broken for good. */
export class FrameReader {
  #head = 0;
  #headBytes = 0;
  #payload: Uint8Array | undefined;
  #filled = 0;

  /**
   * Give the payloads that are whole with these bytes, one by one; they may be parts of these bytes, which are not to
   * be changed afterwards. Throws RemoteProtocolError, after the payloads before a forbidden length.
   */
  *read(chunk: Uint8Array): Generator<Uint8Array, void, undefined> {
    let at = 0;
    while (at < chunk.length) {
      if (this.#headBytes < LENGTH_BYTES) {
        this.#head = this.#head * 256 + (chunk[at] as number);
        this.#headBytes += 1;
        at += 1;
        if (this.#headBytes === LENGTH_BYTES) this.#checkLength();
        continue;
      }
      const missing = this.#head - this.#filled;
      if (this.#payload === undefined && chunk.length - at >= missing) {
        const whole = chunk.subarray(at, at + missing);
        at += missing;
        this.#reset();
        yield whole;
        continue;
      }
      this.#payload ??= new Uint8Array(this.#head);
      const part = chunk.subarray(at, at + missing);
      this.#payload.set(part, this.#filled);
      this.#filled += part.length;
      at += part.length;
      if (this.#filled === this.#head) {
        const whole = this.#payload;
        this.#reset();
        yield whole;
      }
    }
  }

  #checkLength(): void {
    const length = this.#head;
    if (length === 0) throw new RemoteProtocolError("malformed", "a frame of length 0");
    if (length > MAX_FRAME_BYTES) {
      throw new RemoteProtocolError(
        "frame_too_long",
        `a frame of ${length} bytes, where at most ${MAX_FRAME_BYTES} are allowed`,
      );
    }
  }

  #reset(): void {
    this.#head = 0;
    this.#headBytes = 0;
    this.#payload = undefined;
    this.#filled = 0;
  }
}
