"""The limits on links: which pods get their links, and what the error names."""

from __future__ import annotations

import pytest

from ratchet.core.limits import LinkLimits
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
