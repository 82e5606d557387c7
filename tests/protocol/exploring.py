"""Breadth-first search of all orders in which processes can access the world, with the real code.

A process is a function that makes requests. The answers so far determine its place in the code. To find its next
request, the search runs it again with those answers and stops it where they end. Each place is found once (`Place`), so
millions of steps cost a few hundred runs of the code. A step depends on the world, on one place, and on which processes
depend on what they read. Each combination is computed once, too (`Search._steps_from`).

The number of places is finite. After a lost write, a process returns to the place before its decision
(`Replay.retry_on_conflict`). With each stage, a process starts without answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from ratchet.errors import ConflictError
from tests.protocol.asking import Failure, Request, run_by
from tests.protocol.world import Actor, World, perform

Outcome = TypeVar("Outcome")
Thing = TypeVar("Thing")
Stage = Callable[[], str]

END = "end"
READING = ("get", "list", "create", "patch", "notice")
LIVELOCK = "it never comes to rest"


@dataclass(frozen=True, eq=False)
class Process:
    """A process on a node: named stages, each of which returns the name of the next one, until END.

    `killable`: SIGKILL may end the process once it has begun. `api_may_fail`: any of its reads of the API may fail.
    """

    name: str
    node: str
    stages: Mapping[str, Stage]
    first: str
    killable: bool = False
    api_may_fail: bool = False


class _OutOfAnswersError(BaseException):
    """No answer is left. This is not an Exception, so the code under test does not handle it."""


class Replay:
    """One run of a stage with the answers so far. It stops at the first request without an answer."""

    def __init__(self, node: str, answers: tuple[Any, ...]) -> None:
        self.node = node
        self.request: Request | None = None
        self.rewound_to: int | None = None
        self._answers = answers
        self._used = 0
        self._over = False

    def run(self, stage: Stage) -> str | None:
        """The name of the next stage; None if the answers do not suffice."""
        with run_by(self):
            try:
                return stage()
            except _OutOfAnswersError:
                return None

    def ask(self, request: Request) -> Any:
        if self._over:  # requests of `finally` blocks are ignored while the stage unwinds
            raise _OutOfAnswersError
        if self._used == len(self._answers):
            self.request, self._over = request, True
            raise _OutOfAnswersError
        self._used += 1
        return self._answers[self._used - 1]

    def retry_on_conflict(self, decide: Callable[[], Outcome]) -> Outcome:
        """Run a decision. After a conflict, rewind to the answers that it began with."""
        began = self._used
        try:
            return decide()
        except ConflictError:
            self.rewound_to, self._over = began, True
            raise _OutOfAnswersError from None

    def map_concurrently(self, act: Callable[[Thing], Outcome], things: Sequence[Thing]) -> list[Outcome]:
        """Call `act` on one thing after another, because a process in a search has one thread."""
        return [act(thing) for thing in things]

    def clock(self) -> float:
        return 0.0


class Place:
    """A process's place in its code: its stage and the answers so far."""

    __slots__ = (
        "_after",
        "_before",
        "answers",
        "at_rest",
        "depends_on_reads",
        "ended",
        "process",
        "reads",
        "request",
        "stage",
    )

    def __init__(self, process: Process, stage: str, before: Place | None, answers: tuple[Any, ...]) -> None:
        self.process, self.stage, self._before, self.answers = process, stage, before, answers
        self._after: dict[Any, Place] = {}
        self.request: Request | None = None
        self.ended = stage == END
        self.at_rest = self.ended or not answers
        self.reads: bool = before is not None and (
            before.reads or (before.request is not None and before.request[0] in READING)
        )
        # Whether the process may still act on an object that it read or watches.
        self.depends_on_reads = self.reads or stage == "wait"

    def back_to(self, depth: int) -> Place:
        place = self
        while len(place.answers) > depth:
            assert place._before is not None
            place = place._before
        return place


class Places:
    """The places found so far, as a tree for each process and stage."""

    def __init__(self) -> None:
        self._roots: dict[tuple[Process, str], Place] = {}

    def __len__(self) -> int:
        return sum(1 for _ in self._all())

    def start(self, process: Process, stage: str) -> Place:
        if (process, stage) not in self._roots:
            place = Place(process, stage, None, ())
            self._roots[process, stage] = place if stage == END else self._find_request(place)
        return self._roots[process, stage]

    def after(self, place: Place, answer: Any) -> Place:
        if answer not in place._after:
            following = Place(place.process, place.stage, place, (*place.answers, answer))
            place._after[answer] = self._find_request(following)
        return place._after[answer]

    def _find_request(self, place: Place) -> Place:
        """Find the request of a place. Returns the place, or an equivalent earlier one."""
        replay = Replay(place.process.node, place.answers)
        following = replay.run(place.process.stages[place.stage])
        if following is not None:
            return self.start(place.process, following)
        if replay.rewound_to is not None:
            return place.back_to(replay.rewound_to)
        place.request = replay.request
        return place

    def _all(self) -> Iterator[Place]:
        todo = list(self._roots.values())
        while todo:
            place = todo.pop()
            yield place
            todo += [after for after in place._after.values() if after._before is place]


# A world by its number (`Search._number`), because the hash of a number costs less, and the place of each process.
Situation = tuple[int, tuple[Place, ...]]
Steps = tuple[tuple[int, Place], ...]  # the worlds and the places to which one process may get with its next step
Check = Callable[[World, tuple[Place, ...], bool], Iterable[str]]
WorldCheck = Callable[[World, bool], Iterable[str]]


@dataclass
class Report:
    """The result of a search. `faults` has the shortest trace to each kind of fault."""

    states: int = 0
    steps: int = 0
    quiet: int = 0
    places: int = 0
    complete: bool = True
    faults: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        found = f"{self.states} states, {self.steps} steps, {self.quiet} quiet, {self.places} places in the code"
        traces = (f"\n{fault}\n    " + "\n    ".join(trace) for fault, trace in self.faults.items())
        return found + "".join(traces)


def assert_no_fault(report: Report) -> None:
    """Assert that a search is complete, that each order of steps can come to rest, and that it found no fault."""
    assert report.complete, str(report)
    assert report.quiet, str(report)
    assert not report.faults, str(report)


class Search:
    """A search of all situations that are reachable from the first one.

    `check` yields the faults of a situation. Its last argument is whether the situation is at rest: no step is left.
    `check_world` does the same for conditions of the world alone. It is called once for each world, moving or at rest.

    `is_unobservable`: whether no other process can notice, or influence, when a request is answered. Such a step is
    taken together with the step before it, because its order makes no difference.
    """

    def __init__(
        self,
        world: World,
        processes: Iterable[Process],
        check: Check,
        is_unobservable: Callable[[World, Actor, Request], bool] = lambda *_: False,
        check_world: WorldCheck = lambda *_: (),
    ) -> None:
        self._places = Places()
        self._worlds: list[World] = []
        self._numbers: dict[World, int] = {}
        self._steps: dict[tuple[int, tuple[int, ...]], dict[Place, Steps]] = {}
        self._check = check
        self._world_faults = cache(lambda number, quiet: tuple(check_world(self._worlds[number], quiet)))
        self._is_unobservable = is_unobservable
        self._first: Situation = (self._number(world), tuple(self._places.start(one, one.first) for one in processes))

    def run(self, *, first_fault: bool = False, to_rest: bool = False, max_states: int = 3_000_000) -> Report:
        """Visit all situations, or stop at the first fault with `first_fault`.

        With `to_rest`, it is also a fault if no situation at rest is reachable from some situation. The search is
        incomplete if it visits more than `max_states` situations.
        """
        report = Report()
        came_from: dict[Situation, Situation | None] = {self._first: None}
        leads_to: dict[Situation, list[Situation]] = {}
        resting: list[Situation] = []
        todo = deque([self._first])
        while todo:
            situation = todo.popleft()
            following = set(self._following(situation))
            report.steps += len(following)
            if not following:
                resting.append(situation)
            for fault in self._faults(situation, not following):
                if fault not in report.faults:
                    report.faults[fault] = self._trace(situation, came_from)
            if (first_fault and report.faults) or len(came_from) > max_states:
                report.complete = False
                break
            for after in following:
                if to_rest:
                    leads_to.setdefault(after, []).append(situation)
                if after not in came_from:
                    came_from[after] = situation
                    todo.append(after)
        if to_rest and report.complete:
            livelocked = _cannot_reach(resting, leads_to, came_from)
            if livelocked is not None:
                report.faults[LIVELOCK] = self._trace(livelocked, came_from)
        report.states, report.quiet, report.places = len(came_from), len(resting), len(self._places)
        return report

    def _faults(self, situation: Situation, quiet: bool) -> Iterator[str]:
        number, places = situation
        yield from self._check(self._worlds[number], places, quiet)
        yield from self._world_faults(number, quiet)

    def _following(self, situation: Situation) -> Iterator[Situation]:
        number, places = situation
        readers = tuple([pid for pid, place in enumerate(places) if place.depends_on_reads])
        known = self._steps.setdefault((number, readers), {})
        for pid, place in enumerate(places):
            steps = known.get(place)
            if steps is None:
                steps = known[place] = self._steps_from(self._worlds[number], pid, place, readers)
            for after, next_place in steps:
                yield after, (*places[:pid], next_place, *places[pid + 1 :])

    def _steps_from(self, world: World, pid: int, place: Place, readers: tuple[int, ...]) -> Steps:
        """The steps of one process that change the world or its place.

        `readers`: the processes that depend on their reads. Nothing else of the other processes has an influence.
        """
        if place.ended:
            return ()
        actor = Actor(pid, place.process.node, tuple(one for one in readers if one != pid))
        steps = [(_without_unused_reads(after, pid, then), then) for after, then in self._step(world, actor, place)]
        if place.process.killable and (place.answers or place.stage != place.process.first):
            steps.append((world.without_process(pid), self._places.start(place.process, END)))
        return tuple((self._number(after), then) for after, then in steps if (after, then) != (world, place))

    def _number(self, world: World) -> int:
        """The number of a world. Equal worlds have the same one."""
        number = self._numbers.setdefault(world, len(self._worlds))
        if number == len(self._worlds):
            self._worlds.append(world)
        return number

    def _step(self, world: World, actor: Actor, place: Place) -> Iterator[tuple[World, Place]]:
        """The possible outcomes of the process's next step.

        Acquiring a lock, creating a sandbox and waiting are taken together with the following step. Freeing a lock is
        taken together with the step before it. No other process could notice the difference.
        """
        request = place.request
        assert request is not None
        outcomes = perform(world, actor, request)
        if place.process.api_may_fail and request[0] == "get":
            outcomes = [*outcomes, (world, Failure("unavailable", request[1]))]
        for after, answer in outcomes:
            next_place = self._places.after(place, answer)
            if not next_place.ended and (request[0] in ("lock", "birth") or place.stage == "wait"):
                yield from self._step(after, actor, next_place)
                continue
            while next_place.request is not None and (
                next_place.request[0] == "unlock" or self._is_unobservable(after, actor, next_place.request)
            ):
                ((after, answer),) = perform(after, actor, next_place.request)
                next_place = self._places.after(next_place, answer)
            yield after, next_place

    def _trace(self, situation: Situation, came_from: Mapping[Situation, Situation | None]) -> list[str]:
        trace: list[str] = []
        before = came_from[situation]
        while before is not None:
            trace.append(_describe_step(before, situation))
            situation, before = before, came_from[before]
        return trace[::-1]


def _cannot_reach(
    goals: Iterable[Situation], leads_to: Mapping[Situation, list[Situation]], everywhere: Iterable[Situation]
) -> Situation | None:
    """The first situation from which no goal is reachable; None if there is none."""
    reaching, todo = set(goals), deque(goals)
    while todo:
        for before in leads_to.get(todo.popleft(), ()):
            if before not in reaching:
                reaching.add(before)
                todo.append(before)
    return next((one for one in everywhere if one not in reaching), None)


def at_rest(places: Iterable[Place]) -> bool:
    """Whether each process has ended or is at the start of a stage. Steps may be left."""
    return all(one.at_rest for one in places)


def _without_unused_reads(world: World, pid: int, place: Place) -> World:
    """The world without the stale reads of a process that no longer depends on them."""
    if not world.stale_reads or place.depends_on_reads:
        return world
    return world._replace(stale_reads=frozenset(one for one in world.stale_reads if one[0] != pid))


def _describe_step(before: Situation, after: Situation) -> str:
    """One step of a trace as a line for people."""
    for old, new in zip(before[1], after[1], strict=True):
        if old is not new:
            what = " ".join(_shorten(part) for part in old.request or ())
            answer = _shorten(new.answers[-1]) if new.answers else f"→ {new.stage}"
            return f"{old.process.name} [{old.stage}] {what}: {answer}"
    return "the world alone"


def _shorten(part: object) -> str:
    text = str(part)
    return text if len(text) <= 160 else f"{text[:157]}..."
