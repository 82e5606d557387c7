"""Carrier across nodes in every order in which two pods, two agents and their frames act.

An agent follows an end as `datapath.panel.far_pods` does, in three steps between which a pod may change its end: it
sends what it has read, sets the panel's end, and sends again if the pod has changed its end meanwhile.
Either the last step or the event of a panel end that comes up is enough to report such a change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ratchet.core.carrier import TunnelEnd, tunnel_end_is_up

SEND, SET, SEND_AGAIN = 1, 2, 3


class Frame(NamedTuple):
    pod_up: bool
    asks: bool


class Side(NamedTuple):
    """An end: its pod, the panel's end, and its agent.

    `event`: the kernel has reported a change. `step`: what the agent does next, 0: nothing. `asked`: it has to send.
    `inbox`: frames on their way to it. `lowered`: the agent has found the panel's end down at its start, so the far pod
    counts as shut until a frame is heard or the time for it is over.
    """

    pod: bool = True
    panel: bool = True
    event: bool = False
    step: int = 0
    heard: bool | None = True
    sent: bool | None = True
    asked: bool = False
    inbox: tuple[Frame, ...] = ()
    lowered: bool = False

    @property
    def far_pod_up(self) -> bool | None:
        return False if self.lowered else self.heard


class World(NamedTuple):
    sides: tuple[Side, Side]
    flips: int
    restarts: int

    def with_side(self, number: int, side: Side) -> World:
        return self._replace(sides=(side, self.sides[1]) if number == 0 else (self.sides[0], side))


def flip(side: Side) -> Side:
    """The pod changes its end. A panel end that is down gets no event."""
    return side._replace(pod=not side.pod, event=side.event or side.panel)


def receive(side: Side) -> Side:
    frame, *rest = side.inbox
    step = SEND if frame.asks or frame.pod_up is not side.far_pod_up else 0
    asked = side.asked or frame.asks
    return side._replace(heard=frame.pod_up, asked=asked, inbox=tuple(rest), step=step, lowered=False)


def restart(side: Side) -> Side:
    return side._replace(event=False, step=SEND, heard=None, sent=None, asked=False, lowered=not side.panel)


def agent_step(world: World, number: int) -> World:
    side, other = world.sides[number], world.sides[1 - number]
    if side.step == SET:
        up = tunnel_end_is_up(TunnelEnd(True, side.pod, side.far_pod_up))
        event = side.event or (up and not side.panel)  # `panel.events` follows an end that comes up
        return world.with_side(number, side._replace(panel=up, event=event, step=SEND_AGAIN))
    if side.sent is not side.pod or side.asked:
        frame = Frame(side.pod, asks=side.heard is None)
        world = world.with_side(1 - number, other._replace(inbox=(*other.inbox, frame)))
    done = side._replace(sent=side.pod, asked=False, step=SET if side.step == SEND else 0)
    return world.with_side(number, done)


def successors(world: World, *, late: bool) -> Iterator[World]:
    """The worlds after one step. `late`: the frames that a starting agent waits for may come too late."""
    for number, side in enumerate(world.sides):
        if side.step:
            yield agent_step(world, number)
        elif side.event:
            yield world.with_side(number, side._replace(event=False, step=SEND))
        if side.inbox and not side.step:
            yield world.with_side(number, receive(side))
        if world.flips:
            yield world.with_side(number, flip(side))._replace(flips=world.flips - 1)
        if world.restarts:
            yield world.with_side(number, restart(side))._replace(restarts=world.restarts - 1)
        if late and side.lowered and not side.step:
            yield world.with_side(number, side._replace(lowered=False, step=SEND))


def is_at_rest(world: World) -> bool:
    return not any(side.step or side.event or side.inbox or side.lowered for side in world.sides)


def reached(start: World, *, late: bool = True) -> set[World]:
    seen, waiting = {start}, [start]
    while waiting:
        for world in successors(waiting.pop(), late=late):
            if world not in seen:
                seen.add(world)
                waiting.append(world)
    return seen


def wrong(world: World) -> bool:
    """Whether a pod that has its end up has other carrier than its peer's end says."""
    return any(side.pod and side.panel is not world.sides[1 - at].pod for at, side in enumerate(world.sides))


@pytest.mark.parametrize(("flips", "restarts"), [(4, 0), (3, 1), (2, 2)])
def test_every_order_ends_with_the_right_carrier_without_a_repetition(flips: int, restarts: int) -> None:
    worlds = reached(World((Side(), Side()), flips, restarts))
    resting = [world for world in worlds if is_at_rest(world)]
    assert len(resting) > 10
    assert [world for world in resting if wrong(world)] == []


SHUT = Side(pod=False, sent=False)
LOWERED = Side(panel=False, heard=False)


@pytest.mark.parametrize("restarts", [1, 2, 3])
def test_agents_that_restart_give_no_carrier_while_the_far_pod_is_shut(restarts: int) -> None:
    worlds = reached(World((LOWERED, SHUT), 0, restarts), late=False)
    assert len(worlds) > 10
    assert [world for world in worlds if world.sides[0].panel] == []


@pytest.mark.parametrize("far", [Side(), Side(panel=False, heard=False)])
def test_agents_that_find_ends_lowered_for_no_reason_raise_them(far: Side) -> None:
    """Both pods have opened their ends while no agent ran. Frames may be late."""
    for late in (False, True):
        worlds = reached(World((restart(LOWERED), restart(far)), 1, 1), late=late)
        resting = [world for world in worlds if is_at_rest(world)]
        assert resting
        assert [world for world in resting if wrong(world)] == []
