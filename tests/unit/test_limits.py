"""The limits on links: which pods get their links, and what the error names."""

from __future__ import annotations

import pytest

from ratchet.core.limits import LINK_MEMORY, LINKS_PER_NODE, LinkLimits, node_violation
from ratchet.core.pod import PodRef

POD = PodRef("team", "hub", "uid")
LIMITS = LinkLimits(per_pod=4, per_namespace=10)


@pytest.mark.parametrize(
    ("links", "namespace_links", "message"),
    [
        (4, 10, None),
        (0, 11, None),
        (5, 10, "cannot link pod team/hub: it has 5 links, more than links_per_pod, 4"),
        (1, 11, "cannot link pod team/hub: namespace team declares 11 links, more than links_per_namespace, 10"),
        (5, 11, "cannot link pod team/hub: it has 5 links, more than links_per_pod, 4"),
    ],
    ids=["at both limits", "a pod without links", "over the pod's", "over the namespace's", "over both"],
)
def test_the_violation_of_a_limit_names_the_limit_and_the_count(
    links: int, namespace_links: int, message: str | None
) -> None:
    violation = LIMITS.violation(POD, links, namespace_links)
    assert (str(violation) if violation else None) == message


@pytest.mark.parametrize(
    ("held", "new", "share"),
    [
        ({}, 75, None),
        ({}, 76, 75),
        ({"team": 75}, 1, 75),
        ({"team": 75, "small": 10}, 1, 68),
        ({"hog": 75}, 19, None),
        ({"hog": 75}, 20, 19),
        ({"hog": 75, "other": 19}, 5, None),
        ({"hog": 75, "other": 19, "third": 6}, 1, 0),
        ({"hog": 200}, 1, 0),
        ({"team": 10, "hog": 43}, 32, None),
    ],
    ids=[
        "three quarters",
        "more than three quarters",
        "a further link",
        "a share that has become smaller",
        "three quarters of the rest",
        "more than that",
        "a third namespace",
        "a full node",
        "a node over its limit",
        "less than others",
    ],
)
def test_a_namespace_may_have_three_quarters_of_what_the_others_leave(
    held: dict[str, int], new: int, share: int | None
) -> None:
    violation = node_violation(POD, 100, held, new)
    assert (violation is None) == (share is None)
    if violation is not None:
        assert str(violation) == (
            f"cannot link pod team/hub: namespace team has {held.get('team', 0)} links on this node and the pod needs "
            f"{new} more, but its share of links_per_node, 100, is {share}"
        )
        assert "raise links_per_node" in violation.details


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
def test_all_namespaces_together_get_no_more_links_than_the_limit(most: int) -> None:
    held: dict[str, int] = {}
    for number in range(most + 5):
        pod = PodRef(f"ns-{number}", "pod", "uid")
        while node_violation(pod, most, held, 1) is None:
            held[pod.namespace] = held.get(pod.namespace, 0) + 1
    assert sum(held.values()) == most


def test_the_records_of_a_full_node_fit_beside_all_else_in_an_agents_memory() -> None:
    """256 MiB, of which 60 are for an agent without links, 48 for declarations."""
    assert LINKS_PER_NODE * LINK_MEMORY <= 112 << 20
