// A cache that gives its oldest entries back when memory runs short: a plain program and one call, `onPressure`.
//
//     node shedding-cache.mjs [MIB]
//
// What was dropped is collected and measured by the client. Ends at SIGTERM or Ctrl-C.
// @ts-check
import { onPressure } from "lmkd-client";

const MIB = 2 ** 20;

/** Blocks of 1 MiB by number, the least recently used first: a Map keeps the order in which keys were set. */
class Cache {
  /** @type {Map<number, Uint8Array>} */
  #blocks = new Map();

  /** @param {number} number */
  read(number) {
    const block = this.#blocks.get(number) ?? new Uint8Array(MIB).fill(number + 1);
    this.#blocks.delete(number);
    this.#blocks.set(number, block);
    return block;
  }

  /**
   * Drop blocks until this much is let go of, or none is left.
   * @param {number | bigint} targetBytes
   */
  shed(targetBytes) {
    let droppedBytes = 0;
    for (const number of this.#blocks.keys()) {
      if (droppedBytes >= targetBytes) return;
      this.#blocks.delete(number);
      droppedBytes += MIB;
    }
  }

  get heldMib() {
    return this.#blocks.size;
  }
}

const cache = new Cache();
const mib = Number(process.argv[2] ?? 32);
for (let number = 0; number < mib; number += 1) cache.read(number);
console.log(`holding ${cache.heldMib} MiB`);

const listener = onPressure({ name: "cache", sheddableBytes: mib * MIB }, (notice) => {
  cache.shed(notice.targetBytes);
  console.log(`${notice.level}: asked for ${Number(notice.targetBytes) / MIB} MiB, holding ${cache.heldMib} MiB`);
});

// The listener does not keep a program alive; this one has nothing else to do.
listener.ref();
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => {
    listener.close();
    console.log("done");
  });
}
