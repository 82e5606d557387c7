"""Another program undoes each write of Ratchet's network configuration: Ratchet yields, and says what to set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ratchet.errors import RatchetError
from ratchet.install.chain import CONFIG
from ratchet.install.contention import CALM_SECONDS, ROUNDS, YIELD_SECONDS, Contention
from ratchet.install.follow import NetworkFollower
from tests.support.manual_clock import Clock

FLANNEL = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "flannel"}]}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The path of Ratchet's file, in a folder with another network."""
    (tmp_path / "10-flannel.conflist").write_text(json.dumps(FLANNEL))
    return tmp_path / CONFIG


@pytest.fixture
def follower(own: Path, clock: Clock) -> NetworkFollower:
    made = NetworkFollower(own.parent, None, _contention=Contention(clock))
    made.reconcile()
    return made


def _remove(own: Path) -> None:
    own.unlink(missing_ok=True)


def _rename(own: Path) -> None:
    if own.exists():
        own.rename(f"{own}.cilium_bak")


def _back_up(own: Path) -> None:
    if own.exists():
        own.rename(f"{own}.bak")


def _change(own: Path) -> None:
    own.write_text("{}")


@pytest.mark.parametrize(
    ("undo", "does", "advice"),
    [
        (_rename, "Cilium renames it to 00-ratchet.conflist.cilium_bak", "cni.exclusive=false"),
        (_back_up, "another program renames it to 00-ratchet.conflist.bak", "let it keep files"),
        (_remove, "another program removes it", "let it keep files"),
        (_change, "another program changes it", "let it keep files"),
    ],
)
def test_ratchet_yields_after_a_few_rounds_and_names_the_other_program(
    undo: Callable[[Path], None], does: str, advice: str, follower: NetworkFollower, own: Path, clock: Clock
) -> None:
    for _ in range(ROUNDS):
        undo(own)
        follower.reconcile()
        assert b"ratchet" in own.read_bytes()
        clock.now += 2.0
    undo(own)
    left = own.read_bytes() if own.exists() else None
    for _ in range(3):
        with pytest.raises(RatchetError, match=f"cannot keep {own}: {does}") as error:
            follower.reconcile()
        assert advice in error.value.details
        clock.now += 2.0
    assert (own.read_bytes() if own.exists() else None) == left, "Ratchet no longer writes"


def test_ratchet_tries_again_later(follower: NetworkFollower, own: Path, clock: Clock) -> None:
    for _ in range(ROUNDS):
        own.unlink()
        follower.reconcile()
    own.unlink()
    with pytest.raises(RatchetError):
        follower.reconcile()
    clock.now += YIELD_SECONDS + 1
    follower.reconcile()
    assert own.exists()


def test_changes_that_are_far_apart_are_no_contention(follower: NetworkFollower, own: Path, clock: Clock) -> None:
    for _ in range(3 * ROUNDS):
        own.unlink()
        follower.reconcile()
        assert own.exists()
        clock.now += CALM_SECONDS + 1


def test_a_source_that_changes_often_is_no_contention(follower: NetworkFollower, own: Path) -> None:
    for number in range(3 * ROUNDS):
        network = {**FLANNEL, "name": f"pods-{number}"}
        (own.parent / "10-flannel.conflist").write_text(json.dumps(network))
        follower.reconcile()
        assert f"pods-{number}" in own.read_text()
