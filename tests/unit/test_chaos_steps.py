"""The steps of a chaos run: the same seed draws the same steps, and each is possible."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import islice

import pytest

from tests.chaos.drawing import OWN_REAL, REAL, ROUND_SECONDS, ApiServerKind, Model, after, drawn_steps
from tests.chaos.steps import API_FAULTS, SLOTS, Ending, Family, Fault, Kind, Step

SEEDS = range(8)
MANY = 2000


@cache
def drawn(seed: int, number: int = MANY) -> Sequence[Step]:
    """The first steps of a seed. They are drawn once for all tests."""
    return tuple(islice(drawn_steps(seed), number))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_draws_the_same_steps(seed: int) -> None:
    assert drawn(seed) == tuple(islice(drawn_steps(seed), MANY))


def test_seeds_draw_different_steps() -> None:
    assert len({drawn(seed, 20) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_step_is_possible(seed: int) -> None:
    model = Model()
    for step in drawn(seed):
        key = (step.node, step.fault.family) if step.fault else None
        match step.kind:
            case Kind.START:
                assert step.pod not in model.pods
            case Kind.STOP | Kind.RESTART | Kind.MOVE | Kind.KILL_CALL:
                assert step.pod in model.pods
            case Kind.DECLARE:
                assert step.slot not in model.peers
            case Kind.EDIT | Kind.UNDECLARE:
                assert step.slot in model.peers
            case Kind.FAULT:
                assert key not in model.faults
            case Kind.HEAL:
                assert key in model.faults
            case Kind.QUIESCE:
                assert not model.faults
        assert step.peer not in (step.node, SLOTS[step.slot].pod if step.slot >= 0 else None) or not step.peer
        model = after(model, step)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fault_lasts_as_long_as_it_was_drawn(seed: int) -> None:
    model = Model()
    for step in drawn(seed):
        if step.kind is Kind.HEAL and step.fault:
            assert model.now >= min(model.ends[step.node, step.fault.family], model.round_ends)
        elif step.kind is not Kind.QUIESCE:
            assert all(end > model.now for end in model.ends.values()), "a fault that is over ends before other steps"
        model = after(model, step)


@pytest.mark.parametrize("seed", SEEDS)
def test_rounds_quiesce_within_their_length(seed: int) -> None:
    model, quiet = Model(), 0
    for step in drawn(seed):
        assert model.now < model.round_ends or step.kind in (Kind.HEAL, Kind.QUIESCE)
        quiet += step.kind is Kind.QUIESCE
        model = after(model, step)
    assert quiet >= model.now // (2 * ROUND_SECONDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_network_and_tenants_have_one_fault_at_a_time(seed: int) -> None:
    model = Model()
    for step in drawn(seed):
        model = after(model, step)
        families = [family for _, family in model.faults if family in (Family.NETWORK, Family.TENANT)]
        assert len(families) == len(set(families))


def test_every_kind_and_fault_and_ending_is_drawn() -> None:
    steps = [step for seed in SEEDS for step in drawn(seed)]
    assert {step.kind for step in steps} == set(Kind) - {Kind.RESTART_API}
    assert {step.fault for step in steps} == {*Fault, None}
    assert {step.ending for step in steps} == set(Ending)
    assert {step.slot for step in steps} == {-1, *range(len(SLOTS))}


@pytest.mark.parametrize("api", [REAL, OWN_REAL], ids=["foreign", "own"])
def test_a_real_api_server_gets_no_api_faults(api: ApiServerKind) -> None:
    """Only an API server of the run's own cluster is restarted."""
    steps = [step for seed in SEEDS for step in islice(drawn_steps(seed, api), MANY)]
    assert {step.fault for step in steps} == {*Fault, None} - set(API_FAULTS)
    assert {step.kind for step in steps} == set(Kind) - ({Kind.RESTART_API} if api is REAL else set())


def test_a_step_is_one_line_of_the_history() -> None:
    step = Step(Kind.FAULT, node="a", peer="b", fault=Fault.SPLIT, seconds=2.5)
    assert str(step) == "begin fault fault=two nodes are cut off from each other node=a peer=b seconds=2.5"
    assert str(Step(Kind.MOVE, pod="p1", node="c", ending=Ending.NEVER)) == "move pod p1 node=c ending=no DEL"
