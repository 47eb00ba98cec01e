"""The invariants of DESIGN.md that are the heart's own: 1, 3, 4, 5, 6, 7, 8 and 9, in a world that is made up.

The rules make programs, apps and weather; `world` is the machine and the shell; `witness` holds every word of the
heart against the invariants, and says which one was broken.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from lmkd.model import SYSTEM_DOMAIN, Answer, AppClass, Level, Signal, Unit
from lmkd.policy import events
from lmkd.policy.actions import SendSignal
from lmkd.policy.patterns import ExeTest

from . import scenes
from .scenes import BOX, MIB, MS, SECOND, policies, ruled
from .witness import Witness
from .world import Ends, Manner, Program, World

CLAIMED = st.sampled_from([one for one in AppClass if one is not AppClass.SYSTEM])
# Four seconds on an idle machine; this is not about how long it takes on a busy one.
pytestmark = pytest.mark.timeout(300)

KEPT = scenes.rule("kept", AppClass.SYSTEM, ("exe", ExeTest(("kept",))), exempt=True)
SETTINGS = ruled(KEPT, domains=policies(BOX))
index = st.integers(0, 1000)


class Daemon(RuleBasedStateMachine):
    """Programs come, grow, answer or not, and go, while the daemon runs."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(SETTINGS)
        self.witness = Witness(self.world)

    def pick(self, number: int, *, registered: bool | None = None) -> Program | None:
        programs = [
            program
            for program in self.world.programs.values()
            if registered is None or (program.app is not None) is registered
        ]
        return programs[number % len(programs)] if programs else None

    @initialize(
        apps=st.lists(st.tuples(CLAIMED, st.sampled_from(list(Manner))), max_size=4),
        growth_mib_s=st.sampled_from([0, 25, 100]),
        cgroup=st.sampled_from(["/", BOX]),
    )
    def begin(self, apps: list[tuple[AppClass, Manner]], growth_mib_s: int, cgroup: str) -> None:
        """Begin near the floors, with a leak perhaps: most of what matters happens there."""
        for app_class, manner in apps:
            program = self.world.spawn(100 * MIB, cgroup=cgroup)
            self.world.register(program, app_class, manner, reaction_us=100 * MS)
        self.world.spawn(800 * MIB - len(apps) * 100 * MIB, adj=-200)
        self.world.spawn(10 * MIB, adj=700, growth_kib_s=growth_mib_s * MIB, cgroup=cgroup)

    @precondition(lambda self: len(self.world.programs) < 12)
    @rule(
        size_mib=st.integers(1, 300),
        adj=st.sampled_from([0, 900, 700, 500, 200, -100, -950]),
        exe=st.sampled_from(["/usr/bin/prog"] * 4 + ["/usr/sbin/sshd", "/usr/bin/kept"]),
        cgroup=st.sampled_from(["/", BOX, f"{BOX}/db"]),
        parent=st.one_of(st.none(), index),
        growth_mib_s=st.sampled_from([0, 0, 5, 25, 100]),
        ends=st.sampled_from([Ends.ON_TERM, *Ends]),
        registered=st.booleans(),
        app_class=CLAIMED,
        manner=st.sampled_from(list(Manner)),
        reaction_ms=st.sampled_from([0, 40, 900, 4000]),
        unit=st.sampled_from([Unit.PROCESS, Unit.PROCESS, Unit.CGROUP, Unit.TREE]),
    )
    def start(
        self,
        size_mib: int,
        adj: int,
        exe: str,
        cgroup: str,
        parent: int | None,
        growth_mib_s: int,
        ends: Ends,
        registered: bool,
        app_class: AppClass,
        manner: Manner,
        reaction_ms: int,
        unit: Unit,
    ) -> None:
        above = None if parent is None else self.pick(parent)
        program = self.world.spawn(
            size_mib * MIB,
            adj=adj,
            exe=exe,
            cgroup=cgroup,
            growth_kib_s=growth_mib_s * MIB,
            ends=ends,
            ppid=1 if above is None else above.pid,
        )
        if registered:
            reaction_us = reaction_ms * MS
            self.world.register(program, app_class, manner, reaction_us=reaction_us, unit=unit)

    @rule(number=index, app_class=CLAIMED, manner=st.sampled_from(list(Manner)))
    def register(self, number: int, app_class: AppClass, manner: Manner) -> None:
        program = self.pick(number, registered=False)
        if program is not None:
            self.world.register(program, app_class, manner)

    @rule(number=index)
    def unregister(self, number: int) -> None:
        program = self.pick(number, registered=True)
        if program is not None and program.app is not None:
            gone, program.app = program.app, None
            self.world.feed(events.AppGone(gone))

    @rule(number=index, app_class=st.sampled_from(list(AppClass)))
    def change_class(self, number: int, app_class: AppClass) -> None:
        program = self.pick(number, registered=True)
        if program is not None and program.app is not None:
            self.world.feed(events.AppUpdated(program.app, app_class=app_class))

    @rule(domain=st.sampled_from([SYSTEM_DOMAIN, BOX]))
    def make_the_victim_system(self, domain: str) -> None:
        """Give the class that is never signalled to an app that has had its SIGTERM."""
        sent = self.witness.in_flight.get(domain)
        if sent is not None and self.world.find_app(sent.victim.app or 0) is not None:
            self.world.feed(events.AppUpdated(sent.victim.app or 0, app_class=AppClass.SYSTEM))

    @rule(number=index, recycled=st.booleans())
    def end(self, number: int, recycled: bool) -> None:
        program = self.pick(number)
        if program is not None:
            self.world.end(program)
            if recycled:
                self.world.spawn(program.size_kib, pid=program.pid)

    @rule(number=index, growth_mib_s=st.sampled_from([0, 10, 60, 200]))
    def grow(self, number: int, growth_mib_s: int) -> None:
        program = self.pick(number)
        if program is not None:
            program.growth_kib_s = growth_mib_s * MIB

    @rule(
        number=index,
        answer=st.sampled_from(list(Answer)),
        claim_mib=st.sampled_from([0, 5, 5000]),
        back=st.integers(0, 2),
    )
    def answer(self, number: int, answer: Answer, claim_mib: int, back: int) -> None:
        program = self.pick(number, registered=True)
        if program is None:
            return
        notices = [
            notice.notice for (app, _), notice in self.witness.notices.items() if app == program.app
        ]
        if notices:
            notice = max(notices) - back
            self.world.answer(program, notice, answer, claim_kib=claim_mib * MIB)

    @rule(
        stall=st.sampled_from([(0, 0), (1000, 0), (3500, 800), (7000, 2000), (9000, 6000)]),
        swap_mib=st.sampled_from([0, 0, 40, 400]),
        scan_ms=st.sampled_from([0, 0, 150]),
    )
    def change_weather(self, stall: tuple[int, int], swap_mib: int, scan_ms: int) -> None:
        self.world.some_permyriad, self.world.full_permyriad = stall
        self.world.swap_kib = swap_mib * MIB
        self.world.scan_delay_us = scan_ms * MS

    @rule(number=index, level=st.sampled_from(list(Level)), span_ms=st.sampled_from([0, 500, 6000]))
    def simulate(self, number: int, level: Level, span_ms: int) -> None:
        program = self.pick(number, registered=True)
        if program is not None and program.app is not None:
            self.world.feed(events.SimulationAsked((program.app,), level, span_ms * MS))

    @rule(span_ms=st.sampled_from([7, 100, 400, 1500, 3500]))
    def run_for(self, span_ms: int) -> None:
        self.world.run(span_ms * MS)

    @rule(span_ms=st.sampled_from([300, 8000]))
    def suspend(self, span_ms: int) -> None:
        self.world.sleep(span_ms * MS)

    def teardown(self) -> None:
        if self.witness.broken:
            return
        self.world.run(2 * SECOND)
        self.witness.invariant_8_a_recording_replays()


TestDaemon = Daemon.TestCase
TestDaemon.settings = settings(
    derandomize=True,
    deadline=None,
    max_examples=100,
    stateful_step_count=40,
    # To shrink a failure of this machine takes hypothesis its full five minutes; a seed is replayed in seconds.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(CLAIMED, st.integers(60, 150), st.integers(0, 900)), min_size=1, max_size=5),
    st.integers(0, 60),
)
def test_5_whoever_sheds_in_time_so_that_the_level_falls_lives(
    apps: list[tuple[AppClass, int, int]], left_mib: int
) -> None:
    """Invariant 5, whole: from the first notice until calm, nobody is signalled."""
    world = World(SETTINGS)
    witness = Witness(world)
    for app_class, size_mib, reaction_ms in apps:
        program = world.spawn(size_mib * MIB)
        world.register(
            program,
            app_class,
            Manner.SHEDS,
            reaction_us=reaction_ms * MS,
            sheddable_kib=program.size_kib,
        )
    world.run(SECOND)
    # All that they hold would be enough to be calm again, and there is no leak.
    held_kib = sum(program.size_kib for program in world.programs.values())
    available_kib = max(25 * MIB + left_mib * MIB, 151 * MIB - held_kib)
    world.spawn(world.available_kib() - available_kib, adj=-950)
    world.run(10 * SECOND)
    assert world.state.domains[SYSTEM_DOMAIN].level is Level.NORMAL
    assert witness.notices
    assert witness.kills == 0


@pytest.mark.parametrize("app_class", [one for one in AppClass if one < AppClass.SYSTEM])
def test_4_whoever_ignores_its_notice_lives_to_its_deadline_and_not_much_longer(
    app_class: AppClass,
) -> None:
    world = World(SETTINGS)
    Witness(world)
    program = world.spawn(300 * MIB, ends=Ends.ON_KILL)
    world.register(program, app_class, Manner.IGNORES)
    world.spawn(world.available_kib() - 45 * MIB, adj=-950)
    world.run(10 * SECOND)
    (term,) = [
        at_us
        for _, at_us, out in world.log
        for action in out
        if isinstance(action, SendSignal) and action.signal is Signal.TERM
    ]
    grace_us = SETTINGS.classes[app_class].grace_us
    assert grace_us <= term <= grace_us + 300 * MS
