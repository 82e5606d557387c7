"""Values of the core: which references mean one pod."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratchet.core.model import PodRef

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
def test_references_mean_one_pod_by_uid_or_by_static_pod(one: PodRef, other: PodRef, same: bool) -> None:
    assert one.is_same_pod(other) is same
    assert other.is_same_pod(one) is same
