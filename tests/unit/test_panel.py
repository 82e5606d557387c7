from __future__ import annotations

from ratchet.core.naming import IFINDEX_LEAST, IFINDEX_PAIRS
from ratchet.core.panel import (
    GROUP_LEAST,
    GROUPS,
    PanelSlot,
    attachment_groups,
    is_attachment_group,
)
from ratchet.datapath import messages

IFNAMSIZ = 16  # with the final NUL


def test_names_differ_by_attachment_interface_and_kind() -> None:
    slots = [PanelSlot("/run/netns/ratchet", group) for group in (GROUP_LEAST, GROUP_LEAST + GROUPS - 1)]
    names = [
        name
        for slot in slots
        for index in (IFINDEX_LEAST, IFINDEX_LEAST + 2 * IFINDEX_PAIRS - 1)
        for name in (slot.cable(index), slot.tunnel(index))
    ]
    assert len(set(names)) == len(names) == 8
    assert all(len(name.encode()) < IFNAMSIZ for name in names)


def test_an_attachment_can_have_any_group_and_has_one_that_it_prefers() -> None:
    groups = list(attachment_groups("attachment"))
    assert len(set(groups)) == len(groups) == GROUPS
    assert groups[0] == next(attachment_groups("attachment")) != next(attachment_groups("another"))
    assert is_attachment_group(min(groups))
    assert is_attachment_group(max(groups))


def test_groups_of_attachments_and_of_pods_interfaces_are_told_apart() -> None:
    assert not is_attachment_group(messages.GROUP)
    assert not is_attachment_group(0)
    assert not is_attachment_group(GROUP_LEAST + GROUPS)
