"""A program with a loop of its own: a cachetools cache, and a task."""

import asyncio
import sys

import cachetools
import lmkd_client
from lmkd_client.asyncio import shed_on_pressure

MIB = 1 << 20


async def main() -> None:
    count = int(sys.argv[1])
    cache = lmkd_client.sheddable(cachetools.LRUCache(count), level="low")
    for number in range(count):
        cache[number] = number.to_bytes(8, "big") * (MIB // 8)
    print("ready", flush=True)
    await shed_on_pressure(name="asyncio", app_class="cached", sheddable_bytes=count * MIB)


if __name__ == "__main__":
    asyncio.run(main())
