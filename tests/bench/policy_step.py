"""The policy step for one reading: when nothing changes, and when the level rises and everybody is told."""

import gc
import time
from dataclasses import replace

from lmkd.config import load_config
from lmkd.model import App, AppClass, Reading
from lmkd.policy import heart
from lmkd.policy.events import AppRegistered, DomainOpened, ReadingTaken
from lmkd.policy.state import State
from tests.bench.rows import Row, middle

ROUNDS = 25
LIMIT_MS_1000 = 2.0  # and in proportion for more
CALM = Reading("system", 0, 1 << 20, 900 << 10, 0, 0, scanned_pages=0)
CLASSES = (AppClass.CACHED, AppClass.BACKGROUND, AppClass.SERVICE, AppClass.PERCEPTIBLE)


def measure() -> list[Row]:
    gc.collect()
    gc.freeze()  # as the daemon does at start
    rows = []
    told: dict[int, float] = {}
    for count in (1_000, 10_000):
        state = _state(count)
        calm_ms = middle([_time(state, _reading(state, 900 << 10)) for _ in range(ROUNDS)])
        told[count] = middle([_time(state, _reading(state, 40 << 10)) for _ in range(ROUNDS)])
        limit_ms = LIMIT_MS_1000 * count / 1_000
        growth = f"{told[count] / told[1_000]:.1f} times that of 1,000" if count > 1_000 else ""
        rows.append(Row(f"policy step, {count:,} apps, nothing changes", calm_ms, limit_ms, "ms"))
        rows.append(
            Row(f"policy step, {count:,} apps, all are told", told[count], limit_ms, "ms", growth)
        )
    return rows


def _state(count: int) -> State:
    state = heart.start(load_config([]).settings, 1)
    state, _ = heart.step(state, DomainOpened("system"), 0)
    apps = {
        number: App(
            number, number, 1, 1000, f"app{number}", CLASSES[number % 4], "/", 1024 + number
        )
        for number in range(1, count)
    }
    # Put there at once: to register ten thousand one by one is not what is measured.
    state = replace(state, apps=apps)
    last = App(count, count, 1, 1000, "last", AppClass.CACHED, "/", 1024)
    state, _ = heart.step(state, AppRegistered(last), 0)
    for at_ms in range(0, 3_000, 100):
        calm = replace(CALM, at_us=at_ms * 1000)
        state, _ = heart.step(state, ReadingTaken(calm), calm.at_us)
    return state


def _reading(state: State, available_kib: int) -> Reading:
    return replace(CALM, at_us=3_000_000, available_kib=available_kib)


def _time(state: State, reading: Reading) -> float:
    began_ns = time.perf_counter_ns()
    heart.step(state, ReadingTaken(reading), reading.at_us)
    return (time.perf_counter_ns() - began_ns) / 1e6
