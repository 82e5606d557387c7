"""What tenants declare: links in labels, annotations and topologies, and topologies that are hostile."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ratchet.core.kinds import Wiring
from ratchet.core.pod import PodRef
from ratchet.store.api_errors import NotFoundError
from tests.chaos.steps import HOSTILE_PODS, PROBES, SLOTS, Fault, Kind, Place, Step
from tests.chaos.world import World
from tests.support.link_spec import LinkSpec

TOPOLOGIES = ("even", "odd")
PROBE_TOPOLOGY = "probe"
HOSTILE_TOPOLOGY = "hostile"
FIRST_PROBE_NUMBER = 60
MOST_PROBES = 30
CROWD = 200
OVERSIZE = 900_000  # bytes; an API server takes 1 MiB


@dataclass(frozen=True, slots=True)
class Declared:
    """A declared link, and whether its endpoints are in reverse order."""

    spec: LinkSpec
    swapped: bool


class Tenants:
    """The declarations, and the pods that they concern.

    `stale`: pods whose declarations have changed since the last quiet point. A change takes effect when they restart.
    """

    def __init__(self, world: World) -> None:
        self.stale: set[str] = set()
        self._world = world
        self._declared: dict[int, Declared] = {}
        self._probes: list[LinkSpec] = []
        self._number = FIRST_PROBE_NUMBER
        self._lock = threading.Lock()  # a pod that is created during a change has the declaration before or after it
        for name in (*TOPOLOGIES, PROBE_TOPOLOGY):
            world.bed.create_topology(name, "[]")

    @property
    def specs(self) -> list[LinkSpec]:
        """All declared links."""
        return [one.spec for one in self._declared.values()] + self._probes

    def create_pod(self, name: str, node: str) -> PodRef:
        """Create a pod with its declarations."""
        with self._lock:
            return self._world.bed.create_pod(name, self._labels(name), node, self._annotations(name))

    def change(self, step: Step) -> None:
        """Declare, edit or remove the link of a slot."""
        slot = SLOTS[step.slot]
        before = self._declared.pop(step.slot, None)
        if step.kind is not Kind.UNDECLARE:
            wiring = Wiring.PANEL if slot.number % 2 else Wiring.DIRECT
            spec = LinkSpec(slot.pod, f"out{slot.number}", step.peer, f"in{slot.number}", slot.number, wiring)
            self._declared[step.slot] = Declared(spec, step.swapped)
        concerned = {slot.pod, step.peer, before.spec.pair if before else ""} - {""}
        if slot.place is Place.TOPOLOGY:  # running pods follow it
            name = TOPOLOGIES[slot.number % len(TOPOLOGIES)]
            self._world.bed.edit_topology(name, self._topology(name))
        else:
            self.stale |= concerned
            self._patch(slot.pod)

    def probe(self) -> list[LinkSpec]:
        """Declare a new link between each two probes, and return them. Their agents have to read the topology."""
        pairs = zip(PROBES, (*PROBES[1:], PROBES[0]), strict=True)
        if len(self._probes) >= MOST_PROBES:
            self._probes.clear()
        added = [
            LinkSpec(one, f"next{at}", other, f"prev{at}", at) for at, (one, other) in enumerate(pairs, self._number)
        ]
        self._number += len(added)
        self._probes += added
        links = [one.in_topology(swapped=False) for one in self._probes]
        self._world.bed.edit_topology(PROBE_TOPOLOGY, json.dumps(links))
        return added

    def begin_hostility(self, step: Step) -> None:
        """Create a topology that costs much, or that cannot be read. It names the hostile pods only."""
        assert step.fault is not None
        self._world.bed.create_topology(HOSTILE_TOPOLOGY, hostile_topology(step.fault))

    def end_hostility(self) -> None:
        """Delete that topology, and with it its links."""
        path = f"/api/v1/namespaces/{self._world.bed.namespace}/configmaps/{HOSTILE_TOPOLOGY}"
        api = self._world.bed.api
        with suppress(NotFoundError):  # the response to an earlier try was lost
            api.delete(path, uid=api.get(path)["metadata"]["uid"])

    def _labels(self, pod: str) -> dict[str, str]:
        own = [one.spec.labels for slot, one in self._declared.items() if _declares(slot, pod, Place.LABELS)]
        return {"ratchet": "true", **(own[0] if own else {})}

    def _annotations(self, pod: str) -> dict[str, str]:
        own = [one for slot, one in self._declared.items() if _declares(slot, pod, Place.ANNOTATION)]
        return {"ratchet.links": json.dumps([one.spec.in_annotation(0) for one in own])} if own else {}

    def _topology(self, name: str) -> str:
        own = [
            one.spec.in_topology(swapped=one.swapped)
            for slot, one in sorted(self._declared.items())
            if SLOTS[slot].place is Place.TOPOLOGY and TOPOLOGIES[slot % len(TOPOLOGIES)] == name
        ]
        return json.dumps(own)

    def _patch(self, pod: str) -> None:
        """Write the labels and annotations of a pod that exists."""
        absent: dict[str, Any] = dict.fromkeys(LinkSpec("", "", "", "", 0, Wiring.DIRECT).labels)
        path = f"{self._world.bed.pods_path}/{pod}"
        with self._lock, suppress(NotFoundError):  # it is created later, with these declarations
            labels = {**absent, **self._labels(pod)}
            annotations = {"ratchet.links": None, **self._annotations(pod)}
            self._world.bed.api.patch(path, {"metadata": {"labels": labels, "annotations": annotations}})


def hostile_topology(fault: Fault) -> str:
    """The text of a hostile topology."""
    one, other = HOSTILE_PODS
    link = {"endpoints": [f"{one}:x", f"{other}:y"]}
    match fault:
        case Fault.CROWD:
            return json.dumps([{"endpoints": [f"{one}:x{at}", f"{other}:y{at}"]} for at in range(CROWD)])
        case Fault.OVERSIZED:
            return json.dumps([{**link, "routes": ["x" * OVERSIZE]}])
        case Fault.UNREADABLE:
            return json.dumps([link])[:-2]
        case Fault.ALIASES:
            levels = [f"- &l0 [{one}, {other}]"]
            levels += [f"- &l{at} [{', '.join([f'*l{at - 1}'] * 9)}]" for at in range(1, 9)]
            return "\n".join(levels)
        case _:
            raise AssertionError(f"{fault} is no hostile topology")


def _declares(slot: int, pod: str, place: Place) -> bool:
    return SLOTS[slot].pod == pod and SLOTS[slot].place is place
