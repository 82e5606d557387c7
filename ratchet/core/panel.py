"""The patch panel of a node: names and groups of its devices, and which pods' ends have carrier."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Literal

# The ends of a record: "a" is the lesser endpoint (`core.naming.in_order`).
EndKey = Literal["a", "b"]

# The groups of attachments. Their upper byte is "R" in ASCII, as that of `datapath.messages.GROUP`, which is none of
# them.
GROUP_LEAST, GROUPS = 0x52000000, 1_000_000


def cable_name(link: str, end: EndKey) -> str:
    """The name of the panel's end of a cable; `link` is the UID of the record."""
    return f"c{_digest(link)}-{end}"


def tunnel_name(link: str, end: EndKey) -> str:
    """The name of an end's tunnel in the panel; `link` is the UID of the record."""
    return f"t{_digest(link)}-{end}"


def attachment_group(attachment: str, taken: Collection[int]) -> int:
    """The group of an attachment's devices in the panel: none of `taken`.

    The devices of an attachment are deleted by their group, so no two attachments of a node may have the same one.
    """
    start = int.from_bytes(hashlib.sha256(attachment.encode()).digest()[:4], "big")
    for step in range(GROUPS):
        group = GROUP_LEAST + (start + step) % GROUPS
        if group not in taken:
            return group
    raise ValueError(f"all {GROUPS} groups for attachments are taken")


def is_attachment_group(group: int) -> bool:
    """Whether a group is one that `attachment_group` assigns."""
    return GROUP_LEAST <= group < GROUP_LEAST + GROUPS


def panel_end_is_up(*, link_complete: bool, held_down: bool, own_pod_up: bool, far_pod_up: bool | None) -> bool:
    """Whether the panel's end of a cable must be up. Its pod's end has carrier only while it is.

    `own_pod_up` and `far_pod_up` are IFF_UP of the pods' ends; None: unknown, which counts as up. An end that its own
    pod has shut keeps its panel end up: a vEth end that is down itself gets no event when its peer goes up, so two
    lowered panel ends would wait for each other forever.
    """
    far_is_shut = far_pod_up is False
    return link_complete and not held_down and not (far_is_shut and own_pod_up)


def _digest(link: str) -> str:
    return hashlib.sha256(link.encode()).hexdigest()[:12]
