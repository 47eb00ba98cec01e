"""A plain program: a cache that is named, and one line."""

import functools
import sys
import time

import lmkd_client

MIB = 1 << 20


@lmkd_client.sheddable(level="low")
@functools.cache
def block(number: int) -> bytes:
    return number.to_bytes(8, "big") * (MIB // 8)


def main() -> None:
    count = int(sys.argv[1])
    for number in range(count):
        block(number)
    lmkd_client.shed_on_pressure(name="blocking", app_class="cached", sheddable_bytes=count * MIB)
    print("ready", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
