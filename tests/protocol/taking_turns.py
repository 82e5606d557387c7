"""A scheduler for whole calls in threads, of which one runs at a time, in a drawn order.

This is for scenes with too many states to search. A thread runs until its next request. Then the scheduler chooses the
thread whose request is answered. The clock advances only when all threads block: to the next deadline.
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

REQUEST_TIMEOUT_SECONDS = 20.0  # real time in which a thread must make its next request
MAX_STEPS = 20_000
MAX_CONFLICTS = 500


class KilledError(BaseException):
    """SIGKILL of a process. It is not an Exception, and is raised again at each request of a clean-up."""


class StuckError(AssertionError):
    """No thread can continue, or a thread does not end."""


class TurnScheduler:
    """The scheduler of the threads that act on one world.

    Each of `choices` is the next thread among those that can continue, and its number of steps. Long runs of one thread
    stall the others, which finds most faults. After the last choice, threads take turns.
    `kills` has, by the name of a process, at which of its requests in `killable` blocks it is killed.
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
        """Run processes until all have ended. `check` judges the world after each step.

        `processes` has the node and the work of each process by its name.
        """
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
        """Add a thread, such as a helper of a process, to the schedule."""
        self._threads.append(runner)

    def draw(self, limit: int) -> int:
        """A number less than `limit`; the highest one after the last choice."""
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
    """A thread that runs from one request to the next: a process, or a helper thread of `process`."""

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
        """As `ratchet.node.concurrency.map_concurrently`, with a drawn number of helpers and drawn turns."""
        work = Work(act, things)
        for number in range(self._turns.draw(len(things))):
            helper = Runner(self._turns, self.actor, f"{self.name} ({number})", work.do, self)
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
        """Run work that SIGKILL may end. Returns None if it was killed."""
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
        """Kill all threads of the process."""
        del self._turns.kills[self.name]
        for one in (*(helper for helper in self._helpers if not helper.ended), self):
            one._dying = True
            one._resume()

    def answer(self, answer: Any) -> None:
        self._answer = answer
        self._resume()

    def abandon(self) -> None:
        """End the thread after another thread of the run has failed."""
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
        except BaseException as fault:  # noqa: BLE001  # raised again in the test's thread
            self.fault = fault
        self.ended = True
        self._asked.release()
