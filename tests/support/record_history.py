"""Every change of records and VNI Leases, with the conditions that hold after each change."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ratchet.core.model import Link
from ratchet.core.state_machine import derive
from ratchet.dev.testbed import wait_for
from ratchet.errors import RatchetError
from ratchet.store.api_errors import ExpiredError
from ratchet.store.apiserver import ApiServer
from ratchet.store.codec import MANAGED_SELECTOR
from ratchet.store.codec.leases import decode_vni_lease
from ratchet.store.codec.links import decode_link
from tests.support.link_spec import ends_of_record

Json = dict[str, Any]

RETRY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a record or of a Lease. `object` is None if it was deleted."""

    version: int
    name: str
    object: Json | None
    is_lease: bool


@dataclass
class History:
    """Every change of records and VNI Leases, checked in the order in which the API stored them.

    `late_deletes`: whether an old sandbox may keep a link that its pod's new sandbox does not have.
    `leases`: the path of the VNI Leases; empty if Leases are lost, so that VNIs are not unique at every moment.
    `deleted_containers` has the IDs of sandboxes that no record may hold any more. `deleted_pods` has the UIDs of pods
    that were deleted from the API.
    """

    api: ApiServer
    config_maps: str
    leases: str
    late_deletes: bool = False
    deleted_containers: set[str] = field(default_factory=set)
    deleted_pods: set[str] = field(default_factory=set)
    _events: list[Event] = field(default_factory=list)
    _checked: int = 0
    _records: dict[str, Link] = field(default_factory=dict)
    _holders: dict[int, str] = field(default_factory=dict)
    _closed: bool = False

    def follow(self) -> None:
        """Start the watches. Call it while there are no records and no Leases of VNIs."""
        for path in self._paths:
            _, version = self._list(path)
            threading.Thread(target=self._watch, args=(path, version), name=f"history of {path}", daemon=True).start()

    def close(self) -> None:
        self._closed = True

    def _watch(self, path: str, version: str) -> None:
        while not self._closed:
            try:
                version = version or self._list_again(path)
                for event in self.api.watch(path, version, 3600.0, labelSelector=MANAGED_SELECTOR):
                    metadata = event.object["metadata"]
                    version = metadata["resourceVersion"]
                    if event.type != "BOOKMARK":
                        present = None if event.type == "DELETED" else event.object
                        self._append(path, version, metadata["name"], present)
            except ExpiredError:
                version = ""
            except RatchetError:
                time.sleep(RETRY_SECONDS)

    def _list_again(self, path: str) -> str:
        """Append what changed since the last event, and return the version of the list."""
        items, version = self._list(path)
        before = self._latest(path)
        present = {item["metadata"]["name"]: item for item in items}
        for name, item in present.items():
            if before.get(name) != (changed := item["metadata"]["resourceVersion"]):
                self._append(path, changed, name, item)
        for name in before.keys() - present.keys():
            self._append(path, version, name, None)
        return version

    def _list(self, path: str) -> tuple[list[Json], str]:
        """Ratchet's objects. A controller may create others in each namespace."""
        return self.api.list(path, labelSelector=MANAGED_SELECTOR)

    def _latest(self, path: str) -> dict[str, str]:
        """The versions of the objects of a collection after the last event, by name."""
        latest: dict[str, str] = {}
        for event in self._events.copy():
            if event.is_lease == (path == self.leases):
                latest.pop(event.name, None)
                if event.object is not None:
                    latest[event.name] = event.object["metadata"]["resourceVersion"]
        return latest

    def _append(self, path: str, version: str, name: str, present: Json | None) -> None:
        self._events.append(Event(int(version), name, present, path == self.leases))

    def violations(self) -> list[str]:
        """Wait for all changes until now, and return the violations since the last call."""
        wait_for("all that has changed", self._is_complete)
        return self.violations_so_far()

    def violations_so_far(self) -> list[str]:
        """Violations in the changes that were received since the last call."""
        events = sorted(self._events[self._checked :], key=lambda event: event.version)
        self._checked += len(events)
        return [f"at version {event.version}: {fault}" for event in events for fault in self._violations_after(event)]

    @property
    def records(self) -> dict[str, Link]:
        """The records after the last change that was checked."""
        return dict(self._records)

    @property
    def _paths(self) -> tuple[str, ...]:
        return (self.config_maps, self.leases) if self.leases else (self.config_maps,)

    def _is_complete(self) -> bool:
        """Whether all changes were received. Node Leases are left out, because they are always renewed."""
        reported = {(path, name): version for path in self._paths for name, version in self._latest(path).items()}
        present = {
            (path, item["metadata"]["name"]): item["metadata"]["resourceVersion"]
            for path in self._paths
            for item in self._list(path)[0]
        }
        return {key: reported[key] for key in reported if not _is_node_lease(key)} == {
            key: present[key] for key in present if not _is_node_lease(key)
        }

    def _violations_after(self, event: Event) -> Iterator[str]:
        if event.is_lease:
            if _is_node_lease(("", event.name)):
                return
            vni = int(event.name.removeprefix("vni-"))
            lease = decode_vni_lease(event.object) if event.object else None
            self._holders.pop(vni, None)
            if lease is not None:
                self._holders[vni] = lease.holder
            yield from self._vnis_without_lease()
            return
        before = self._records.pop(event.name, None)
        if event.object is None:
            return
        link = self._records[event.name] = decode_link(event.object)
        if (stored := event.object["data"]["state"]) != derive(link):
            yield f"{link.name} says {stored} and is {derive(link)}"
        yield from self._vnis_without_lease()
        yield from self._duplicate_vnis()
        yield from duplicate_interfaces(self._records.values(), per_sandbox=self.late_deletes)
        for end in ends_of_record(link):
            sandbox = end.sandbox
            if sandbox is not None and sandbox.container_id in self.deleted_containers:
                yield f"{link.name} holds {sandbox.container_id[:6]} of {sandbox.pod.name}, which was deleted long ago"
        if before is not None:
            yield from self._removed_live_pods(before, link)

    def _vnis_without_lease(self) -> Iterator[str]:
        if not self.leases:
            return
        for link in self._records.values():
            if link.vni is not None and self._holders.get(link.vni) != link.uid:
                yield f"{link.name} has VNI {link.vni}, whose Lease is {self._holders.get(link.vni) or 'nobody'}'s"

    def _duplicate_vnis(self) -> Iterator[str]:
        if not self.leases:
            return
        numbers = Counter(link.vni for link in self._records.values() if link.vni is not None)
        yield from (f"VNI {vni} belongs to {times} records" for vni, times in numbers.items() if times > 1)

    def _removed_live_pods(self, before: Link, after: Link) -> Iterator[str]:
        reported = [step.reason for step in after.history if step not in before.history]
        if not any(reason.startswith("collected:") for reason in reported):
            return
        for was, now in zip(ends_of_record(before), ends_of_record(after), strict=True):
            lost = was.sandbox
            if lost is not None and now.sandbox is None and lost.pod.uid not in self.deleted_pods:
                yield f"{after.name}: garbage collection removed {lost.pod.name}, which is alive"


def _is_node_lease(key: tuple[str, str]) -> bool:
    return key[1].startswith("node-")


def duplicate_interfaces(records: Iterable[Link], *, per_sandbox: bool = True) -> Iterator[str]:
    """Interfaces that several records hold: of one sandbox, or of one pod.

    A pod may have two sandboxes. If the DEL of the old one is late, it keeps links that the new one does not have.
    """
    ends = Counter(
        (str(end.sandbox.pod), end.sandbox.container_id[:6] if per_sandbox else "", end.ifname)
        for link in records
        for end in ends_of_record(link)
        if end.sandbox is not None
    )
    for (pod, container, ifname), times in ends.items():
        if times > 1:
            yield f"{pod} {container} has {times} links at {ifname}"
