"""Draw the steps of a chaos run: a pure function of the seed. A step depends on the steps before it, not on timing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from tests.chaos.steps import API_FAULTS, HOSTILE_PODS, NODES, PODS, SLOTS, Ending, Family, Fault, Kind, Step

ROUND_SECONDS = 30.0
MEAN_PAUSE = 0.6
LONGEST_PAUSE = 3.0
CLOCK_STEPS = (-3600.0, 0.0, 3600.0)  # seconds by which a wall clock is ahead
STARTED_PODS = (*PODS, *HOSTILE_PODS)

FaultKey = tuple[str, Family]

WEIGHTS: dict[Kind, int] = {
    Kind.START: 12,
    Kind.STOP: 5,
    Kind.RESTART: 8,
    Kind.MOVE: 6,
    Kind.KILL_CALL: 3,
    Kind.DECLARE: 9,
    Kind.EDIT: 4,
    Kind.UNDECLARE: 3,
    Kind.FAULT: 10,
    Kind.CLOCK: 2,
    Kind.LOSE_LEASES: 1,
    Kind.COLLECT: 1,
    Kind.RESTART_API: 1,
}


@dataclass(frozen=True, slots=True)
class Model:
    """The state of a run after its steps, as far as the next step depends on it.

    `now` and the ends of `faults` are seconds of the drawn pauses. `pods`: the node of each pod that exists. `peers`:
    the peer of each declared slot. `faults`: the step that began each fault, and `ends` the time of its end.
    """

    now: float = 0.0
    round_ends: float = ROUND_SECONDS
    pods: Mapping[str, str] = field(default_factory=dict)
    peers: Mapping[int, str] = field(default_factory=dict)
    faults: Mapping[FaultKey, Step] = field(default_factory=dict)
    ends: Mapping[FaultKey, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApiServerKind:
    """What can be done to the API server: make its responses fail, restart it."""

    faults: bool = True
    restarts: bool = False


EMBEDDED = ApiServerKind()
REAL = ApiServerKind(faults=False)
OWN_REAL = ApiServerKind(faults=False, restarts=True)


def drawn_steps(seed: int, api: ApiServerKind = EMBEDDED) -> Iterator[Step]:
    """The steps of a seed, without end."""
    rng, model = random.Random(seed), Model()
    while True:
        step = next_step(rng, model, api)
        model = after(model, step)
        yield step


def next_step(rng: random.Random, model: Model, api: ApiServerKind = EMBEDDED) -> Step:
    """Draw one step. Faults that are over end first. A round ends with all faults, then quiesces."""
    over = model.now >= model.round_ends
    for key, step in model.faults.items():
        if over or model.ends[key] <= model.now:
            return replace(step, kind=Kind.HEAL, pause=0.0, seconds=0.0)
    if over:
        return Step(Kind.QUIESCE)
    possible = _possible(model, api)
    kinds = list(possible)
    kind = rng.choices(kinds, [WEIGHTS[one] for one in kinds])[0]
    return replace(possible[kind](rng), kind=kind, pause=min(rng.expovariate(1 / MEAN_PAUSE), LONGEST_PAUSE))


def after(model: Model, step: Step) -> Model:
    """The model after a step."""
    model = replace(model, now=model.now + step.pause)
    if step.kind in (Kind.START, Kind.MOVE):
        return replace(model, pods={**model.pods, step.pod: step.node})
    if step.kind is Kind.STOP:
        return replace(model, pods=_without(model.pods, step.pod))
    if step.kind in (Kind.DECLARE, Kind.EDIT):
        return replace(model, peers={**model.peers, step.slot: step.peer})
    if step.kind is Kind.UNDECLARE:
        return replace(model, peers=_without(model.peers, step.slot))
    if step.kind is Kind.QUIESCE:
        return replace(model, round_ends=model.now + ROUND_SECONDS)
    if step.fault is None:
        return model
    key = (step.node, step.fault.family)
    if step.kind is Kind.HEAL:
        return replace(model, faults=_without(model.faults, key), ends=_without(model.ends, key))
    ends = {**model.ends, key: model.now + step.seconds}
    return replace(model, faults={**model.faults, key: step}, ends=ends)


def _without(mapping: Mapping, key: object) -> dict:  # type: ignore[type-arg]  # of any key and value
    return {one: value for one, value in mapping.items() if one != key}


Draw = Callable[[random.Random], Step]


def _possible(model: Model, api: ApiServerKind) -> dict[Kind, Draw]:
    """How to draw each kind of step that is possible now."""
    absent = [pod for pod in STARTED_PODS if pod not in model.pods]
    present = [pod for pod in STARTED_PODS if pod in model.pods]
    undeclared = [slot.number for slot in SLOTS if slot.number not in model.peers]
    declared = sorted(model.peers)
    draws: list[tuple[object, Kind, Draw]] = [
        (absent, Kind.START, lambda rng: Step(Kind.START, pod=rng.choice(absent), node=rng.choice(NODES))),
        (present, Kind.STOP, lambda rng: _ended(rng, Step(Kind.STOP, pod=rng.choice(present)))),
        (present, Kind.RESTART, lambda rng: _ended(rng, Step(Kind.RESTART, pod=rng.choice(present)))),
        (present, Kind.MOVE, lambda rng: _ended(rng, Step(Kind.MOVE, pod=rng.choice(present), node=rng.choice(NODES)))),
        (present, Kind.KILL_CALL, lambda rng: Step(Kind.KILL_CALL, pod=rng.choice(present))),
        (undeclared, Kind.DECLARE, lambda rng: _declaration(rng, rng.choice(undeclared))),
        (declared, Kind.EDIT, lambda rng: _declaration(rng, rng.choice(declared))),
        (declared, Kind.UNDECLARE, lambda rng: Step(Kind.UNDECLARE, slot=rng.choice(declared))),
        (faults := _possible_faults(model, api.faults), Kind.FAULT, lambda rng: _fault(rng, model, faults)),
        (
            True,
            Kind.CLOCK,
            lambda rng: Step(Kind.CLOCK, node=rng.choice(NODES), seconds=rng.choice(CLOCK_STEPS)),
        ),
        (True, Kind.LOSE_LEASES, lambda _: Step(Kind.LOSE_LEASES)),
        (True, Kind.COLLECT, lambda _: Step(Kind.COLLECT)),
        (api.restarts, Kind.RESTART_API, lambda _: Step(Kind.RESTART_API)),
    ]
    return {kind: draw for possible, kind, draw in draws if possible}


def _ended(rng: random.Random, step: Step) -> Step:
    ending = rng.choices(list(Ending), [6, 2, 3, 1])[0]
    return replace(step, ending=ending, seconds=round(rng.uniform(0.5, 8.0), 1) if ending is Ending.LATE else 0.0)


def _declaration(rng: random.Random, number: int) -> Step:
    peers = [pod for pod in PODS if pod != SLOTS[number].pod]
    return Step(Kind.DECLARE, slot=number, peer=rng.choice(peers), swapped=rng.random() < 0.5)


def _possible_faults(model: Model, api_faults: bool) -> list[tuple[str, Fault]]:
    """The nodes and the faults that they do not have yet. One fault of the network or of a tenant at a time."""
    families = {family for _, family in model.faults}
    alone = {family for family in (Family.NETWORK, Family.TENANT) if family in families}
    return [
        (node, fault)
        for fault in Fault
        for node in (HOSTILE_PODS[:1] if fault.family is Family.TENANT else NODES)
        if fault.family not in alone
        and (node, fault.family) not in model.faults
        and (api_faults or fault not in API_FAULTS)
    ]


def _fault(rng: random.Random, model: Model, possible: list[tuple[str, Fault]]) -> Step:
    family = rng.choice(sorted({fault.family for _, fault in possible}))
    node, fault = rng.choice([one for one in possible if one[1].family is family])
    others = [one for one in NODES if one != node]
    peer = rng.choice(others) if fault is Fault.SPLIT else ""
    return Step(Kind.FAULT, node=node, peer=peer, fault=fault, seconds=round(rng.uniform(1.0, 12.0), 1))
