"""The declared links of a namespace by their endpoints, and their records, as far as the account may read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ratchet.cli.cluster import require_namespace
from ratchet.cli.snapshot import read_declared
from ratchet.core.endpoint_spec import EndState
from ratchet.core.intent import Wanted, WantedLink
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link, Side
from ratchet.core.naming import Endpoint
from ratchet.errors import MalformedRecordError, RatchetError
from ratchet.store.api_errors import ForbiddenError
from ratchet.store.store import ApiStore


@dataclass(frozen=True, slots=True)
class FoundLink:
    """A declared link, the side of the endpoint that names it, and its record; None if it is missing or unknown."""

    wanted: WantedLink
    side: Side
    record: Link | None

    @property
    def name(self) -> str:
        """The name of its record, existing or to be created."""
        return self.record.name if self.record is not None else self.wanted.link.name

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint under the name that the record has for the pod. That name survives a restart of the pod."""
        link = self.wanted.link if self.record is None else self.record.oriented_as(self.wanted.link)
        end = link.end(self.side)
        return end.name, end.ifname

    @property
    def keys(self) -> set[str]:
        """The keys under which its operation may be stored."""
        return {self.name} | self.wanted.record_names()

    @property
    def is_direct(self) -> bool:
        """Whether it is known to be in direct wiring. The default wiring of the nodes is not known."""
        if self.record is not None:
            return self.record.wiring is Wiring.DIRECT
        return self.wanted.effective_wiring(Wiring.PANEL) is Wiring.DIRECT

    @property
    def is_declared_up(self) -> bool:
        return all(self.wanted.link.end(side).properties.state is EndState.UP for side in Side)


class NamespaceLinks:
    """The links of a namespace. Pods, topologies and records are read when they are needed, each once.

    `may_read_records`: false once the API has refused a record. Then no record is known. `faults` are the errors of
    malformed records.
    """

    def __init__(self, store: ApiStore, namespace: str) -> None:
        self._store = store
        self._namespace = namespace
        self._records = dict[str, Link | None]()
        self.may_read_records = True
        self.faults = list[str]()

    @cached_property
    def wanted(self) -> Wanted:
        """The declared links."""
        return read_declared(self._store, self._namespace)[0]

    def find(self, text: str, action: str) -> FoundLink:
        """The link with an endpoint POD:INTERFACE. `action` is what cannot be done if there is none.

        The pod has its own name or `ratchet.pod_name`. Raises RatchetError.
        """
        name, _, ifname = text.partition(":")
        pod = self.wanted.holders.get(name)
        endpoint = (pod.ref.name if pod is not None else name, ifname)
        for one in self.wanted.links:
            for side in Side:
                if one.endpoint(side) == endpoint:
                    return FoundLink(one, side, self._record_of_link(one))
        require_namespace(self._store, self._namespace, action)
        raise RatchetError(
            f"cannot {action}: no declared link has this endpoint", details=self._advice(name, endpoint[0])
        )

    def keys(self, name: str, action: str) -> set[str]:
        """The keys of a link's operation, given an endpoint, or a key. A key may be of a link that is not declared."""
        return self.find(name, action).keys if ":" in name else {name}

    def endpoints(self) -> list[str]:
        """All declared endpoints."""
        found = {one.endpoint(side) for one in self.wanted.links for side in Side}
        return sorted(":".join(endpoint) for endpoint in found)

    def record(self, name: str) -> Link | None:
        """The record of the link whose operation has this name as its key; None if it is missing or unknown."""
        link = self._by_record_name.get(name)
        return self._record(name) if link is None else self._record_of_link(link)

    @cached_property
    def _by_record_name(self) -> dict[str, WantedLink]:
        return {name: one for one in self.wanted.links for name in one.record_names()}

    def _record_of_link(self, link: WantedLink) -> Link | None:
        found = {name: self._record(name) for name in sorted(link.record_names())}
        return link.record_in({name: record for name, record in found.items() if record is not None})

    def _record(self, name: str) -> Link | None:
        if name not in self._records and self.may_read_records:
            try:
                record = self._store.links.get(name)
            except ForbiddenError:
                self.may_read_records = False
                return None
            except MalformedRecordError as error:
                self.faults.append(str(error))
                record = None
            self._records[name] = record if record is not None and record.namespace == self._namespace else None
        return self._records.get(name)

    def _advice(self, name: str, pod: str) -> str:
        known = [one for one in self.endpoints() if one.partition(":")[0] == pod]
        if known:
            return f"endpoints of pod {name}: {', '.join(known)}"
        holder = self.wanted.holders.get(name)
        error = self.wanted.refused.get(holder.ref.uid) if holder is not None else None
        return str(error) if error is not None else f"no link of pod {name} is declared in namespace {self._namespace}"
