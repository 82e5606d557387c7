"""The data model: equality of pod references, and the ends of a link."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratchet.core.model import SIDES, Side
from ratchet.core.pod import PodRef
from tests.support.links import vxlan

ORDINARY = PodRef("default", "a", "uid-1")
MIRROR = PodRef("default", "a", "uid-1", "static-1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (ORDINARY, ORDINARY, True),
        (ORDINARY, replace(ORDINARY, uid="uid-2"), False),
        (MIRROR, MIRROR, True),
        (MIRROR, ORDINARY, True),
        (MIRROR, replace(MIRROR, uid="uid-2"), True),
        (MIRROR, replace(MIRROR, uid="uid-2", mirror="static-2"), False),
        (MIRROR, replace(MIRROR, uid="uid-2", mirror=""), False),
        (MIRROR, replace(MIRROR, uid="uid-2", name="b"), False),
        (MIRROR, replace(MIRROR, uid="uid-2", namespace="other"), False),
    ],
    ids=[
        "one pod",
        "created again",
        "one mirror",
        "one UID, recorded without the static pod's",
        "mirror created again",
        "new manifest",
        "ordinary pod in its place",
        "other name",
        "other namespace",
    ],
)
def test_references_are_the_same_pod_by_uid_or_by_static_pod(one: PodRef, other: PodRef, same: bool) -> None:
    assert one.is_same_pod(other) is same
    assert other.is_same_pod(one) is same


def test_sides_are_all_sides_in_order() -> None:
    assert tuple(Side) == SIDES


@pytest.mark.parametrize("side", Side)
def test_a_side_selects_its_end_and_the_other_end(side: Side) -> None:
    link = vxlan()
    near, far = link.ends_from(side)
    assert (near, far) == (link.end(side), link.end(side.other))
    assert near.sandbox is not None
    assert link.sandbox(side) == near.sandbox
    assert link.side_of(near.sandbox.container_id) is side
    assert link.side_at(near.name, near.ifname) is side
    assert link.side_of("none") is None
    assert link.side_at(near.name, "none") is None
