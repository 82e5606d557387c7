"""A claimed VNI until it is in its link's record: its Lease must not outlive a pass that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ratchet.core import record_updates
from ratchet.core.model import Link

if TYPE_CHECKING:
    from ratchet.node.end_interface import EndInterface
    from ratchet.store.interface import Store


class VniClaim:
    """The VNI that one pass has claimed for a link and has not yet written into the link's record.

    `claimed` is the record with that VNI; None while nothing is claimed. The record must have its UID, which holds the
    VNI's Lease.
    """

    def __init__(self, store: Store, claimed: Link | None = None) -> None:
        self.store = store
        self.claimed = claimed

    def allocate(self, record: Link) -> Link:
        """Claim a VNI for a record that has none, and return the record with it. Raises VniExhaustedError."""
        self.claimed = self.store.vnis.allocate(record)
        return self.claimed

    def written(self, stored: Link, device: EndInterface | None) -> None:
        """End the claim after a write of its record. Frees the VNI if the stored record has another one."""
        if self.claimed is not None and self.claimed.vni != stored.vni:
            self.free(device)
        self.end()

    def end(self) -> None:
        """Forget the claim. The VNI and its Lease stay as they are."""
        self.claimed = None

    def free(self, device: EndInterface | None) -> None:
        """Free the VNI, unless its record has it or may still take it.

        `device` may have the VNI: its tunnel is removed before another link can claim the VNI.
        """
        claimed = self.claimed
        if claimed is None or self._taker(claimed) is not None:
            return
        if device is not None:
            device.remove_tunnel(claimed)
        if claimed.vni is not None:
            self.store.vnis.release(claimed.vni, claimed.uid)

    def account_for(self, device: EndInterface | None) -> None:
        """After a failure, write the VNI into its record, so that both are deleted together. Else free it."""
        claimed = self.claimed
        if claimed is None or claimed.vni is None:
            return
        if (taker := self._taker(claimed)) is None:
            self.free(device)
        elif taker.vni is None:
            self.store.links.update(taker, record_updates.with_vni(taker, claimed.vni))

    def _taker(self, claimed: Link) -> Link | None:
        """The record for which the VNI was claimed; None if it neither has the VNI nor may still take it."""
        current = self.store.links.get(claimed.name)
        if current is None or current.uid != claimed.uid:
            return None
        return current if current.vni in (None, claimed.vni) else None
