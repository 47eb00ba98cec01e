"""The heart at work: one event at a time, and its actions in order."""

from __future__ import annotations

import pytest

from lmkd.config import load_config
from lmkd.model import SYSTEM_DOMAIN, Level, Reading
from lmkd.policy import heart
from lmkd.policy.actions import Action, Broadcast, Record, ScanProcesses
from lmkd.policy.events import DomainOpened, ProcessesScanned, ReadingTaken
from lmkd.service.engine import Engine

from .house import MIB, PINNED

SETTINGS = load_config([PINNED]).settings


def exhausted(at_us: int) -> ReadingTaken:
    return ReadingTaken(Reading(SYSTEM_DOMAIN, at_us, 512 * MIB, 20 * MIB))


class Scene:
    def __init__(self) -> None:
        self.now_us = 1_000_000
        self.done: list[Action] = []
        self.engine = Engine(heart.start(SETTINGS, 99), lambda: self.now_us, self.perform)
        self.engine.feed(DomainOpened(SYSTEM_DOMAIN))

    def perform(self, action: Action) -> None:
        self.done.append(action)
        if isinstance(action, ScanProcesses):
            self.engine.feed(ProcessesScanned(SYSTEM_DOMAIN, ()))
            # Not yet: what is fed from within is taken after the actions that are still to be done.
            assert self.engine.state.domains[SYSTEM_DOMAIN].alarmed is False


def test_what_an_action_brings_to_light_is_taken_when_all_actions_are_done() -> None:
    scene = Scene()
    scene.engine.feed(exhausted(scene.now_us))
    kinds = [type(action) for action in scene.done]
    assert kinds.index(Broadcast) < kinds.index(ScanProcesses)
    assert scene.engine.state.domains[SYSTEM_DOMAIN].alarmed, "the scan found nobody, and was taken"


def test_a_fault_in_an_action_does_not_close_the_engine_for_ever() -> None:
    scene = Scene()

    def fail(action: Action) -> None:
        if isinstance(action, Record):
            raise ZeroDivisionError

    scene.engine = Engine(scene.engine.state, lambda: scene.now_us, fail)
    with pytest.raises(ZeroDivisionError):
        scene.engine.feed(exhausted(scene.now_us))
    scene.now_us += 10_000
    scene.engine.feed(exhausted(scene.now_us))
    assert scene.engine.state.domains[SYSTEM_DOMAIN].reading_us == scene.now_us


def test_a_wake_that_is_overdue_is_now() -> None:
    scene = Scene()
    scene.engine.feed(exhausted(scene.now_us))
    assert scene.engine.state.domains[SYSTEM_DOMAIN].level is Level.CRITICAL
    assert 0 < scene.engine.wake_in_us(SYSTEM_DOMAIN) <= SETTINGS.read_pressed_us
    scene.now_us += 60_000_000
    assert scene.engine.wake_in_us(SYSTEM_DOMAIN) == 0
