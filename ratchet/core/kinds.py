"""How a link is wired, and what connects its pods."""

from __future__ import annotations

from enum import StrEnum


class Wiring(StrEnum):
    """What the interface in the pod is.

    DIRECT: one end of the link itself, a vEth or a VXLAN. It lives as long as the link. PANEL: one end of a cable (a
    vEth pair) to the node's patch panel, a network namespace in which the cable is patched to another cable or to a
    VXLAN. It lives as long as the pod.
    """

    DIRECT = "direct"
    PANEL = "panel"


# The wiring of links for which none is declared, on nodes that do not set another one.
DEFAULT_WIRING = Wiring.PANEL


class Kind(StrEnum):
    """What connects the pods: on one node a vEth or, in panel wiring, a patch; a VXLAN across nodes or if declared."""

    VETH = "veth"
    PATCH = "patch"
    VXLAN = "vxlan"


# The kinds whose ends are on one node, which builds both ends together.
LOCAL_KINDS = (Kind.VETH, Kind.PATCH)
