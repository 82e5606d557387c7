from __future__ import annotations

import pytest

from ratchet.core.panel import (
    GROUP_LEAST,
    GROUPS,
    attachment_group,
    cable_name,
    is_attachment_group,
    panel_end_is_up,
    tunnel_name,
)
from ratchet.datapath import messages

IFNAMSIZ = 16  # with the final NUL

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


def test_names_differ_by_link_end_and_kind() -> None:
    links = ("6f1c2d0e-0000-4000-8000-000000000001", "6f1c2d0e-0000-4000-8000-000000000002")
    names = [name(link, end) for name in (cable_name, tunnel_name) for link in links for end in ("a", "b")]
    assert len(set(names)) == len(names) == 8
    assert all(len(name.encode()) < IFNAMSIZ for name in names)
    assert cable_name(links[0], "a") == cable_name(links[0], "a")


def test_attachments_never_share_a_group() -> None:
    first = attachment_group("attachment", ())
    second = attachment_group("attachment", {first})
    assert len({first, second, attachment_group("attachment", {first, second})}) == 3
    with pytest.raises(ValueError, match="all 1000000 groups for attachments are taken"):
        attachment_group("attachment", range(GROUP_LEAST, GROUP_LEAST + GROUPS))


def test_groups_of_attachments_and_of_pods_interfaces_are_told_apart() -> None:
    group = attachment_group("attachment", ())
    assert is_attachment_group(group)
    assert not is_attachment_group(messages.GROUP)
    assert not is_attachment_group(0)
