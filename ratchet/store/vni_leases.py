"""The Leases that reserve VNIs, and which VNIs the records have.

A Lease is created, never overwritten. Its holder is the UID of the record that has the number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from ratchet.core.garbage import Claim, ClaimDigests, VniLease, claim_digest, digest
from ratchet.core.limits import LINKS_PER_NAMESPACE
from ratchet.core.model import Link
from ratchet.core.naming import VNI_LABEL, node_label, vni_lease_name
from ratchet.core.record_updates import with_vni
from ratchet.errors import ConflictError
from ratchet.store.api_errors import ForbiddenError, NotFoundError
from ratchet.store.apiserver import ApiServer, Decoded
from ratchet.store.codec import MANAGED_SELECTOR, Json
from ratchet.store.codec.leases import decode_claim, decode_vni_lease, encode_vni_lease, lease_labels_patch
from ratchet.store.codec.links import record_vni
from ratchet.store.paging import restarts_expired
from ratchet.store.paths import config_maps_path, leases_path
from ratchet.store.vni import VniAllocator

log = logging.getLogger(__name__)


class VniLeases:
    """The VNI Leases in the API.

    `vni_range` is the first and the last number that may be allocated. `allocator` has the numbers that are known to be
    in use; without one, each allocation lists them. `per_namespace` is the greatest number of VNIs of the links of one
    namespace.
    """

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        vni_range: tuple[int, int],
        allocator: VniAllocator | None = None,
        per_namespace: int = LINKS_PER_NAMESPACE,
    ) -> None:
        self.api = api
        self.vni_range = vni_range
        self.per_namespace = per_namespace
        self.allocator = allocator
        self.path = leases_path(namespace)
        self._records_path = config_maps_path(namespace)

    def allocate(self, link: Link) -> Link:
        """The link with a VNI that no other link has. `link.uid` must be the stored record's.

        If a Lease already gives a number to this record, that number is used: the process was killed before it wrote
        the number, or the other end has claimed it. Raises VniExhaustedError. Raises InvalidIntentError if the link's
        namespace has `per_namespace` VNIs.
        """
        if link.vni is not None:
            return link
        return with_vni(link, (self.allocator or VniAllocator()).claim(self, link))

    def claim_another(self, link: Link) -> int:
        """Claim a VNI for a record that must not keep the one that it has. Raises VniExhaustedError."""
        return (self.allocator or VniAllocator()).claim(self, link, another=True)

    def hold(self, link: Link) -> bool:
        """Make the record hold the Lease of its VNI. Returns False if another record is the holder.

        A missing Lease is created, an ownerless one replaced. A Lease is ownerless if its holder is no record's UID: a
        restored backup leaves such Leases. The record's own Lease gets the labels of the link's nodes if it lacks them.
        Raises ConflictError if the Lease changes meanwhile.
        """
        if link.vni is None:
            return False
        try:
            lease = decode_vni_lease(self.api.get(f"{self.path}/{vni_lease_name(link.vni)}"))
        except NotFoundError:
            lease = None
        if lease is not None:
            if lease.holder == link.uid:
                self._label(lease, link)
                return True
            if lease.holder in self.record_uids():  # listed after the Lease: a record exists before it holds one
                return False
            with suppress(NotFoundError):
                self.delete(lease)
        self.api.create(self.path, encode_vni_lease(link.vni, link))
        former = lease.holder if lease is not None else ""
        log.warning("VNI Lease created again link=%s vni=%s former_holder=%r", link.name, link.vni, former)
        return True

    def release(self, vni: int, holder: str) -> None:
        """Delete the Lease of a VNI if the record with the UID `holder` holds it."""
        path = f"{self.path}/{vni_lease_name(vni)}"
        with suppress(NotFoundError, ConflictError):  # released meanwhile, and perhaps claimed by another record
            lease = decode_vni_lease(self.api.get(path))
            if lease is not None and lease.holder == holder:
                self.api.delete(path, uid=lease.uid)
        if self.allocator is not None:
            self.allocator.freed(vni)

    @restarts_expired
    def list(self) -> Sequence[VniLease]:
        """All VNI Leases."""
        return self._list(MANAGED_SELECTOR, decode_vni_lease)

    @restarts_expired
    def claims(self) -> Sequence[Claim]:
        """The VNI, the holder and the namespace of each VNI Lease. A cluster can have 100,000 Leases."""
        return self._list(MANAGED_SELECTOR, decode_claim)

    @restarts_expired
    def claim_digests(self) -> ClaimDigests:
        """The digests of all VNI Leases."""
        digests = ClaimDigests()

        def decode(item: Json) -> None:
            if (claim := decode_claim(item)) is not None:
                digests.add(claim)

        self.api.list_decoded(self.path, decode, labelSelector=MANAGED_SELECTOR)
        return digests

    @restarts_expired
    def list_claimed(self, claims: Collection[int], most: int) -> Sequence[VniLease]:
        """The Leases whose VNIs and holders have these digests; `most` of them at most."""
        left = iter(range(most))

        def decode(item: Json) -> VniLease | None:
            claim = decode_claim(item)
            if claim is None or claim_digest(claim.vni, digest(claim.holder)) not in claims:
                return None
            return decode_vni_lease(item) if next(left, None) is not None else None

        return self._list(MANAGED_SELECTOR, decode)

    @restarts_expired
    def list_of_node(self, node: str) -> Sequence[VniLease]:
        """The VNI Leases with the label of a node. Leases from before an upgrade have no such labels."""
        return self._list(node_label(node), decode_vni_lease)

    def delete(self, lease: VniLease) -> None:
        """Delete a Lease on condition of its version. Raises ConflictError if it has changed."""
        path = f"{self.path}/{vni_lease_name(lease.vni)}"
        self.api.delete(path, uid=lease.uid, resource_version=lease.resource_version)

    @restarts_expired
    def record_vnis(self, vnis: Collection[int] | None = None) -> dict[int, str]:
        """The VNIs in the labels of records, with a record's UID.

        With `vnis`, only these numbers are looked up.
        """
        selector = VNI_LABEL if vnis is None else f"{VNI_LABEL} in ({','.join(map(str, sorted(vnis)))})"
        found = self.api.list_metadata(self._records_path, record_vni, labelSelector=selector)
        return dict(entry for entry in found if entry is not None)

    @restarts_expired
    def recorded_vnis(self) -> set[int]:
        """The VNIs in the labels of records."""
        found = self.api.list_metadata(self._records_path, _vni, labelSelector=VNI_LABEL)
        return {vni for vni in found if vni is not None}

    @restarts_expired
    def record_uids(self) -> set[str]:
        """The UIDs of all ConfigMaps of the namespace: also of records whose labels or data were edited."""
        return set(self.api.list_metadata(self._records_path, _uid))

    @restarts_expired
    def record_uid_digests(self) -> set[int]:
        """The digests of the UIDs of all ConfigMaps of the namespace, as by `record_uids`."""
        return set(self.api.list_metadata(self._records_path, lambda item: digest(_uid(item))))

    def _label(self, lease: VniLease, link: Link) -> None:
        """Label a Lease with the nodes of its link. Raises ConflictError if the Lease has changed."""
        patch = lease_labels_patch(lease, link)
        if patch is None:
            return
        try:
            self.api.patch(f"{self.path}/{vni_lease_name(lease.vni)}", patch)
        except NotFoundError as gone:
            raise ConflictError(f"cannot label the Lease of VNI {lease.vni}: it was deleted meanwhile") from gone
        except ForbiddenError as error:  # the daemonless plugin may not patch Leases, and needs no labels
            log.debug('cannot label the VNI Lease vni=%s cause="%s"', lease.vni, error)

    def _list(self, selector: str, decode: Callable[[Json], Decoded | None]) -> Sequence[Decoded]:
        decoded, _ = self.api.list_decoded(self.path, decode, labelSelector=selector)
        return [lease for lease in decoded if lease is not None]


def _uid(item: Json) -> str:
    return str(item["metadata"]["uid"])


def _vni(item: Json) -> int | None:
    entry = record_vni(item)
    return None if entry is None else entry[0]
