"""The carrier of cables: which panel ends are up, and every order of pods, a pass and the watch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest

from ratchet.core import carrier
from ratchet.core.carrier import (
    PanelEndState,
    ReadPod,
    SetPanelEnd,
    TunnelEnd,
    panel_end_is_up,
)
from tests.support.lanes import with_thorough

# own pod up, far pod up -> the panel end of a link that is complete and not held down
CARRIER = {
    (True, True): True,
    (True, None): True,
    (True, False): False,
    (False, True): True,
    (False, None): True,
    (False, False): True,
}


@pytest.mark.parametrize(("own", "far"), CARRIER)
def test_a_panel_end_is_down_if_the_far_pod_alone_has_shut_its_end(own: bool, far: bool | None) -> None:
    up = panel_end_is_up(link_complete=True, held_down=False, own_pod_up=own, far_pod_up=far)
    assert up is CARRIER[own, far]


@pytest.mark.parametrize(("complete", "held"), [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize(("own", "far"), CARRIER)
def test_an_incomplete_or_held_link_has_no_carrier(complete: bool, held: bool, own: bool, far: bool | None) -> None:
    assert not panel_end_is_up(link_complete=complete, held_down=held, own_pod_up=own, far_pod_up=far)


# Every order of steps


Answers = tuple[bool | None, ...]
Pair = tuple[bool, bool]
Event = tuple[int, PanelEndState]
Steps = Generator[ReadPod | SetPanelEnd, bool | None, None]
WATCH, PASS = 0, 1
ANSWERS_IN_ROUND = 6


class World(NamedTuple):
    """A patch, its pods, and two that settle it: the watch of events, and an agent's pass over the link.

    `pods` and `panel`: which ends are up. `events` are those that the watch has not read, `seen` its last report of
    each panel end. `settling`: the answers that watch and pass have got; None: idle. `flips`: how often each pod may
    still change its end. `passes` and `restarts`: how often a pass and the agent may still start.
    """

    pods: Pair = (True, True)
    panel: Pair = (False, False)
    events: tuple[Event, ...] = ()
    seen: tuple[PanelEndState | None, PanelEndState | None] = (None, None)
    settling: tuple[Answers | None, Answers | None] = (None, ())
    flips: tuple[int, int] = (2, 1)
    passes: int = 0
    restarts: int = 0


@cache
def next_step(answers: Answers) -> ReadPod | SetPanelEnd | None:
    """The next step of `settle` after these answers; None if it has ended."""
    steps = carrier.settle()
    try:
        step = next(steps)
        for answer in answers:
            step = steps.send(answer)
    except StopIteration:
        return None
    return step


def put(values: Any, index: int, value: object) -> Any:
    return (*values[:index], value, *values[index + 1 :])


def report(world: World, end: int) -> World:
    """The world after the kernel has sent the state of a panel end to the watch."""
    state = state_of(world, end)
    last = next((queued for which, queued in reversed(world.events) if which == end), world.seen[end])
    return world if state == last else world._replace(events=(*world.events, (end, state)))


def outcomes(world: World) -> Iterator[World]:
    """The worlds after one step of somebody."""
    for end in (0, 1):
        if world.flips[end]:
            flips = put(world.flips, end, world.flips[end] - 1)
            flipped = world._replace(pods=put(world.pods, end, not world.pods[end]), flips=flips)
            yield report(flipped, end) if world.panel[end] else flipped
    for number in (WATCH, PASS):
        if (answers := world.settling[number]) is not None:
            yield settled(world, number, answers)
    if world.settling[WATCH] is None and world.events:
        yield watched(world)
    if world.settling[PASS] is None and world.passes:
        yield world._replace(passes=world.passes - 1, settling=put(world.settling, PASS, ()))
    if world.restarts:
        yield restarted(world)


def state_of(world: World, end: int) -> PanelEndState:
    """A panel end as the kernel reports it now."""
    return PanelEndState(world.panel[end], world.panel[end] and world.pods[end])


def restarted(world: World) -> World:
    """The world after the agent was killed: it begins with a dump of the panel, and settles all patches."""
    seen = (state_of(world, 0), state_of(world, 1))
    return world._replace(restarts=world.restarts - 1, events=(), seen=seen, settling=((), None))


def watched(world: World) -> World:
    (end, state), *later = world.events
    read = world._replace(events=tuple(later), seen=put(world.seen, end, state))
    if not carrier.may_have_changed(world.seen[end], state):
        return read
    return read._replace(settling=put(world.settling, WATCH, ()))


def settled(world: World, number: int, answers: Answers) -> World:
    step = next_step(answers)
    if step is None:
        return world._replace(settling=put(world.settling, number, None))
    answers = (*answers, world.pods[step.end] if isinstance(step, ReadPod) else None)
    if len(answers) == ANSWERS_IN_ROUND and next_step(answers) is not None:
        answers = answers[-2:]  # the next round begins with what was read last
    after = world._replace(settling=put(world.settling, number, answers))
    if isinstance(step, ReadPod) or world.panel[step.end] == step.up:
        return after
    return report(after._replace(panel=put(world.panel, step.end, step.up)), step.end)


def is_right(world: World) -> bool:
    """Whether each pod that has not shut its end has carrier if and only if the other has not shut its own either.

    An end that its pod has shut shows no carrier in any case.
    """
    return all(world.panel[end] == world.pods[1 - end] for end in (0, 1) if world.pods[end])


def faults(start: World) -> Iterator[World]:
    """The worlds at rest in which the carrier is wrong. Searches all orders."""
    seen, waiting = {start}, [start]
    while waiting:
        world = waiting.pop()
        is_quiet = world.settling == (None, None) and not world.events
        if is_quiet and not is_right(world):
            yield world
        for after in outcomes(world):
            if after not in seen:
                seen.add(after)
                waiting.append(after)


SCENES = {
    "a pass runs meanwhile": World(passes=1),
    "the agent restarts": World(restarts=1),
    "the other pod changes its end twice": World(flips=(1, 2), restarts=1),
}


@pytest.mark.parametrize("scene", with_thorough(SCENES, ["a pass runs meanwhile"]))
def test_no_order_of_steps_leaves_a_wrong_carrier(scene: str) -> None:
    """Both pods shut and open their ends in any order."""
    assert next(faults(SCENES[scene]), None) is None


def settle_once() -> Steps:
    """A mutation: the pods are not read again."""
    pods = (yield ReadPod(0)), (yield ReadPod(1))
    for end in (0, 1):
        own, far = pods[end], pods[1 - end]
        up = panel_end_is_up(link_complete=True, held_down=False, own_pod_up=own is not False, far_pod_up=far)
        yield SetPanelEnd(end, up)


def lower_both(*, own_pod_up: bool, far_pod_up: bool | None, **_: bool) -> bool:
    """A mutation: an end whose far pod has shut its end is down, also if its own pod has shut it too."""
    return far_pod_up is not False


def only_losses(before: PanelEndState | None, now: PanelEndState) -> bool:
    """A mutation: a gain of carrier is no news."""
    return now.up and not now.carrier


MUTATIONS = [("settle", settle_once), ("panel_end_is_up", lower_both), ("may_have_changed", only_losses)]


@pytest.mark.parametrize(("name", "mutation"), MUTATIONS, ids=[name for name, _ in MUTATIONS])
def test_the_search_finds_a_mutation(
    name: str, mutation: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    next_step.cache_clear()
    monkeypatch.setattr(carrier, name, mutation)
    try:
        assert next(faults(World(flips=(2, 2), passes=1)), None) is not None
    finally:
        next_step.cache_clear()


# A cable that is patched to a tunnel


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(("own", "far"), CARRIER)
def test_a_cable_at_a_tunnel_has_the_carrier_of_one_at_a_cable(complete: bool, own: bool, far: bool | None) -> None:
    assert carrier.tunnel_end_is_up(TunnelEnd(complete, own, far)) is (complete and CARRIER[own, far])


def test_an_unread_pod_counts_as_up() -> None:
    assert not carrier.tunnel_end_is_up(TunnelEnd(True, None, False))
    assert carrier.tunnel_end_is_up(TunnelEnd(True, None, None))


@pytest.mark.parametrize("change", [{"complete": False}, {"own_pod_up": False}, {"far_pod_up": True}])
@pytest.mark.parametrize("at", [0, 1])
def test_a_change_during_a_settlement_is_followed(change: dict[str, bool], at: int) -> None:
    """The change happens after the end was read, or while the panel's end is set."""
    end, steps, panel = TunnelEnd(complete=True, own_pod_up=True, far_pod_up=False), 0, [True]

    def step() -> None:
        nonlocal end, steps
        if steps == at:
            end = end._replace(**change)
        steps += 1

    def read() -> TunnelEnd:
        seen = end
        step()
        return seen

    def set_panel_end(up: bool) -> None:
        step()
        panel.append(up)

    carrier.settle_tunnel(read, set_panel_end)
    assert panel[-1] is carrier.tunnel_end_is_up(end)


def test_nothing_is_set_while_it_is_unknown_whether_the_link_is_complete() -> None:
    panel: list[bool] = []
    carrier.settle_tunnel(lambda: TunnelEnd(complete=None, own_pod_up=True, far_pod_up=True), panel.append)
    assert panel == []


def test_a_pod_that_flaps_does_not_keep_a_settlement_busy() -> None:
    flapping, panel = itertools.cycle((True, False)), list[bool]()
    carrier.settle_tunnel(lambda: TunnelEnd(True, next(flapping), False), panel.append)
    assert len(panel) == carrier.ROUNDS


@pytest.mark.parametrize("is_up", [True, False, None])
def test_a_panel_end_that_is_as_it_must_be_is_not_set(is_up: bool | None) -> None:
    panel: list[bool] = []
    end = TunnelEnd(complete=True, own_pod_up=True, far_pod_up=True)
    assert carrier.settle_tunnel(lambda: end, panel.append, is_up) == end
    assert panel == ([] if is_up else [True])
