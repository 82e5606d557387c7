"""Whole calls of the runtime in threads of which one runs at a time: who is next is drawn.

For what has too many states to go everywhere. A thread runs until it asks for something; then whoever's turn it is
gets its answer. Time stands still while anybody can go on, and jumps to the next deadline when nobody can.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ratchet.errors import ConflictError
from ratchet.node.concurrency import Work
from tests.protocol.asking import Request, run_by
from tests.protocol.world import Actor, World, perform

Outcome = TypeVar("Outcome")
Thing = TypeVar("Thing")

REQUEST_TIMEOUT_SECONDS = 20.0  # of the real clock, for a thread to ask for something
MAX_STEPS = 20_000
MAX_CONFLICTS = 500


class KilledError(BaseException):
    """SIGKILL. Not an Exception; and whoever tries to clean up is killed again."""


class StuckError(AssertionError):
    """Nobody can go on, and time would not help."""


class TurnScheduler:
    """The world and the threads that work on it.

    Each of `choices` says which of those that can go on is next, and for how many steps: long runs of one leave the
    others stalled, which is what breaks things. When they are used up, turns go round.
    `kills` are processes by name and at which of their requests within `killable` blocks they are killed.
    """

    def __init__(self, world: World, choices: Sequence[tuple[int, int]], kills: Mapping[str, int]) -> None:
        self.world = world
        self.kills = dict(kills)
        self.killed: list[str] = []
        self.steps = 0
        self._choices = list(choices)
        self._running: Runner | None = None
        self._run_left = 0
        self._threads: list[Runner] = []
        self._pids = 0

    def run(self, processes: Mapping[str, tuple[str, Callable[[], None]]], check: Callable[[World], None]) -> None:
        """Run these (by name: node and what to do) to their ends; `each` judges the world after every step."""
        self._threads = []
        for name, (node, work) in processes.items():
            self._pids += 1
            self.add(Runner(self, Actor(self._pids, node), name, work))
        try:
            self._go(check)
        finally:
            for runner in self._threads:
                runner.abandon()

    def add(self, runner: Runner) -> None:
        """Have one more thread take turns."""
        self._threads.append(runner)

    def draw(self, limit: int) -> int:
        """A number; the highest where there is nothing to draw from any more."""
        return self._choices.pop()[0] % limit if self._choices else limit - 1

    def _go(self, check: Callable[[World], None]) -> None:
        while waiting := [one for one in self._threads if not one.ended]:
            ready = [one for one in waiting if perform(self.world, one.actor, one.request)]
            if not ready:
                self._advance_clock(waiting)
                continue
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise StuckError(f"no end after {MAX_STEPS} steps")
            self._step(self._choose_runner(ready))
            check(self.world)
        faults = [one.fault for one in self._threads if one.fault is not None]
        if faults:
            raise faults[0]

    def _step(self, runner: Runner) -> None:
        if runner.is_kill_due():
            process = runner.process
            self.killed.append(process.name)
            self.world = self.world.without_process(process.actor.pid)
            process.kill()
            return
        ((self.world, answer),) = perform(self.world, runner.actor, runner.request)
        runner.answer(answer)

    def _choose_runner(self, ready: Sequence[Runner]) -> Runner:
        if self._running is None or self._running not in ready or not self._run_left:
            which, self._run_left = self._choices.pop() if self._choices else (self.steps, 1)
            self._running = ready[which % len(ready)]
        self._run_left -= 1
        return self._running

    def _advance_clock(self, waiting: Sequence[Runner]) -> None:
        deadlines = [one.request[-1] for one in waiting if one.request[0] in ("watch", "sleep")]
        deadlines_ahead = [moment for moment in deadlines if moment > self.world.now]
        if not deadlines_ahead:
            raise StuckError("; ".join(f"{one.name} waits for {one.request}" for one in waiting))
        self.world = self.world._replace(now=min(deadlines_ahead))


class Runner:
    """One process in its thread, from one request to the next; or one of the threads in which a `process` works."""

    def __init__(
        self, turns: TurnScheduler, actor: Actor, name: str, work: Callable[[], None], process: Runner | None = None
    ) -> None:
        self.name, self.node, self.actor = name, actor.node, actor
        self.process = process or self
        self.request: Request = ()
        self.ended = False
        self.fault: BaseException | None = None
        self._turns, self._work = turns, work
        self._helpers: list[Runner] = []
        self._answer: Any = None
        self._dying = False
        self._killable = 0
        self._number = 0
        self._answered = threading.Semaphore(0)
        self._asked = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._wait_for_request()

    def ask(self, request: Request) -> Any:
        if self._dying:
            raise KilledError
        self.request = request
        self.process._killable += bool(self.process._killable)
        self._number = self.process._killable
        self._asked.release()
        self._answered.acquire()
        if self._dying:
            raise KilledError
        return self._answer

    def map_concurrently(self, act: Callable[[Thing], Outcome], things: Sequence[Thing]) -> list[Outcome]:
        """As `map_concurrently`: how many help is drawn, and so are their turns."""
        work = Work(act, things)
        for number in range(self._turns.draw(len(things))):
            helper = Runner(self._turns, self.actor, f"{self.name} ({number})", work.help, self)
            self._helpers.append(helper)
            self._turns.add(helper)
        work.do()
        if self._helpers:
            self.ask(("choose", lambda *_: [True] if all(helper.ended for helper in self._helpers) else []))
            self._helpers.clear()
        return work.results()

    def retry_on_conflict(self, decide: Callable[[], Outcome]) -> Outcome:
        for _ in range(MAX_CONFLICTS):
            try:
                return decide()
            except ConflictError:
                continue
        raise StuckError("a decision is disputed without end")

    def clock(self) -> float:
        return self._turns.world.now

    def killable(self, work: Callable[[], Outcome]) -> Outcome | None:
        """Do some work, within which SIGKILL may come; None where it came."""
        self._killable = 1
        try:
            return work()
        except KilledError:
            if self.ended:
                raise
            self._dying = False
            self._helpers.clear()
            return None
        finally:
            self._killable = 0

    def is_kill_due(self) -> bool:
        return self._number > 0 and self._turns.kills.get(self.process.name, 0) == self._number

    def kill(self) -> None:
        """End all of the process at once."""
        del self._turns.kills[self.name]
        for one in (*(helper for helper in self._helpers if not helper.ended), self):
            one._dying = True
            one._resume()

    def answer(self, answer: Any) -> None:
        self._answer = answer
        self._resume()

    def abandon(self) -> None:
        """End the thread of a run that has failed."""
        if not self.ended:
            self.ended = self._dying = True
            self._answered.release()
        self._thread.join(REQUEST_TIMEOUT_SECONDS)

    def _resume(self) -> None:
        self._answered.release()
        self._wait_for_request()

    def _wait_for_request(self) -> None:
        if not self._asked.acquire(timeout=REQUEST_TIMEOUT_SECONDS):
            raise StuckError(f"{self.name} asks for nothing")

    def _run(self) -> None:
        try:
            with run_by(self):
                self._work()
        except KilledError:
            pass
        except BaseException as fault:  # noqa: BLE001  # told to the test's own thread
            self.fault = fault
        self.ended = True
        self._asked.release()
