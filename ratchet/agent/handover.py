"""The interface of an edited end in panel wiring, which another link of the pod takes over."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ratchet import datapath
from ratchet.core.endpoint_spec import resets
from ratchet.core.kinds import Wiring
from ratchet.core.pod import Pod
from ratchet.core.wires import cable_wire
from ratchet.errors import NamespaceGoneError
from ratchet.node.attach import OwnEnd, held_ends

if TYPE_CHECKING:
    from ratchet.agent.underlay import Underlays
    from ratchet.node.journal import HeldEnd, SandboxEntry
    from ratchet.store.interface import Store


@dataclass(frozen=True, slots=True)
class Handover:
    """Hands interfaces of a node's sandboxes over."""

    node: str
    store: Store
    underlays: Underlays

    def successor(self, entry: SandboxEntry, end: HeldEnd, pod: Pod, own: Iterable[OwnEnd]) -> HeldEnd | None:
        """The end that takes over the interface of `end`, whose link is undeclared; None if it must be removed.

        `own` are the pod's ends as declared now. Raises RatchetError if the record cannot be read.
        """
        if not end.live or end.wanted.wiring is not Wiring.PANEL:
            return None
        for wanted, side in own:
            if wanted.link.end(side).ifname == end.ifname and wanted.is_declared_by_others(pod):
                (new,) = held_ends(self.store, pod, [(wanted, side)])
                takes_over = new.wanted.wiring is Wiring.PANEL and entry.end_of(new.link) is None
                return replace(new, index=end.index) if takes_over else None
        return None

    def rewire(self, entry: SandboxEntry, old: HeldEnd, new: HeldEnd) -> None:
        """Disconnect the cable of `old`, and give its interface the settings of `new`. Raises RatchetError."""
        underlay = self.underlays(entry.underlay, self.node, self.store)
        wire = cable_wire(new.wanted, new.side, underlay, entry.location(old), keeps_tunnel=False)
        left = resets(old.wanted.end(old.side).properties, new.wanted.end(new.side).properties)
        near = replace(wire.near, renewed=True, resets=left)
        with suppress(NamespaceGoneError):  # DEL releases the end
            datapath.build(replace(wire, near=near))
