"""The patch panel of a node: names and groups of its devices."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

# The default path of the panel's namespace, and the alias of its `lo`, which marks it as Ratchet's.
PANEL_PATH = "/run/netns/ratchet"
PANEL_MARK = "ratchet/panel"

# The groups of attachments. Their upper byte is "R" in ASCII, as that of `datapath.messages.GROUP`, which is none of
# them.
GROUP_LEAST, GROUPS = 0x52000000, 1_000_000

# The first letters of devices' names. A former tunnel is one that another one replaces.
CABLE_PREFIX, TUNNEL_PREFIX, FORMER_PREFIX = "c", "t", "f"


class PanelSlot(NamedTuple):
    """An attachment's place in its node's patch panel: the path of the panel's namespace, and a group of devices.

    The group and the ifindex that is reserved for a pod's interface identify the end of a link on its node. They do not
    depend on the link, because the cable stays when the link changes.
    """

    path: str
    group: int

    def cable(self, index: int) -> str:
        """The name of the panel's end of a cable; `index` is the ifindex reserved for the pod's end."""
        return f"{CABLE_PREFIX}{self.group - GROUP_LEAST:05x}-{index:x}"

    def tunnel(self, index: int) -> str:
        """The name of the tunnel to which that cable is patched."""
        return f"{TUNNEL_PREFIX}{self.group - GROUP_LEAST:05x}-{index:x}"

    def former(self, index: int) -> str:
        """The name of the tunnel that this one replaces, while it still takes what the peer sends."""
        return f"{FORMER_PREFIX}{self.group - GROUP_LEAST:05x}-{index:x}"


def attachment_groups(attachment: str) -> Iterator[int]:
    """All groups that an attachment's devices in the panel can have, its preferred one first.

    The devices of an attachment are deleted by their group, so no two attachments of a node may have the same one.
    """
    start = int.from_bytes(hashlib.sha256(attachment.encode()).digest()[:4], "big")
    return (GROUP_LEAST + (start + step) % GROUPS for step in range(GROUPS))


def is_attachment_group(group: int) -> bool:
    """Whether a group is one of `attachment_groups`."""
    return GROUP_LEAST <= group < GROUP_LEAST + GROUPS


def cable_of(tunnel: str) -> str:
    """The name of the cable whose tunnel, or former tunnel, has this name."""
    return CABLE_PREFIX + tunnel[1:]


def is_former(tunnel: str) -> bool:
    """Whether the name of one of Ratchet's devices in a panel is that of a former tunnel."""
    return tunnel.startswith(FORMER_PREFIX)


def leftover_tunnels(names: Collection[str]) -> set[str]:
    """The tunnels whose cable is gone; `names` are those of all of Ratchet's devices in a panel.

    A cable goes with the namespace of its pod, and its tunnel stays. A cable without a journal entry is no leftover:
    its pod's namespace exists, and the journal may be lost.
    """
    return {name for name in names if name[:1] in (TUNNEL_PREFIX, FORMER_PREFIX) and cable_of(name) not in names}
