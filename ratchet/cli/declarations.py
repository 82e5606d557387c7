"""The declarations of a namespace, and how they are once the objects of files are applied."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ratchet.cli.manifests import ManifestPod
from ratchet.cli.progress import rejected_declarations
from ratchet.cli.topology_faults import topology_faults
from ratchet.core.intent import Wanted, wanted_links
from ratchet.core.intent.topology_limits import admit
from ratchet.core.limits import DEFAULT_TOPOLOGY_LIMITS
from ratchet.core.pod import Pod, Topology

_NOW = datetime.max.replace(tzinfo=UTC)  # a new object is the youngest


@dataclass(frozen=True, slots=True)
class Declarations:
    """The pods and topologies of a namespace, and the links that they declare."""

    pods: Collection[Pod]
    topologies: Collection[Topology]
    wanted: Wanted = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wanted", wanted_links(self.pods, topologies=self.topologies))

    @property
    def rejected(self) -> dict[str, str]:
        """The errors of invalid declarations, by place."""
        return rejected_declarations(self.wanted, self.topologies)


@dataclass(frozen=True, slots=True)
class Files:
    """The objects in files for one namespace.

    `others` are the names of ConfigMaps that are no topologies. Pods of workloads are not among the `pods`: it is not
    known which pods a change of a workload creates and deletes.
    """

    pods: Collection[ManifestPod] = ()
    topologies: Collection[Topology] = ()
    others: Collection[str] = ()

    def applied_to(self, before: Declarations) -> Declarations:
        """The declarations after the objects are applied. An object that exists keeps what the API server adds."""
        pods = {pod.ref.name: pod for pod in before.pods}
        pods |= {one.pod.ref.name: _applied_pod(pods.get(one.pod.ref.name), one) for one in self.pods}
        topologies = {one.name: one for one in before.topologies if one.name not in self.others}
        for one in self.topologies:
            existing = topologies.get(one.name)
            topologies[one.name] = replace(one, created=existing.created if existing is not None else _NOW)
        return Declarations(list(pods.values()), admit(topologies.values(), DEFAULT_TOPOLOGY_LIMITS))

    def rejected(self, before: Declarations, after: Declarations) -> dict[str, str]:
        """The errors by place that the files have, or that other declarations have once the files are applied."""
        own = set(self._places(after))
        return {place: error for place, error in after.rejected.items() if place in own or place not in before.rejected}

    def _places(self, after: Declarations) -> Iterator[str]:
        names, topologies = ({one.pod.ref.name for one in self.pods}, {one.name for one in self.topologies})
        yield from (fault.place for fault in topology_faults(one for one in after.topologies if one.name in topologies))
        for pod in after.pods:
            if pod.ref.name in names and (error := after.wanted.refused.get(pod.ref.uid)) is not None:
                yield error.place


def _applied_pod(existing: Pod | None, one: ManifestPod) -> Pod:
    pod = one.pod
    if existing is not None:
        return replace(existing, labels=pod.labels, annotations=pod.annotations, withheld=pod.withheld)
    return Pod(
        pod.ref,
        pod.labels,
        pod.annotations,
        created=_NOW,
        host_network=one.on_host_network,
        withheld=pod.withheld,
    )


def files_by_namespace(
    pods: Iterable[ManifestPod], topologies: Iterable[Topology], others: Iterable[tuple[str, str]]
) -> dict[str, Files]:
    """The pods, topologies and other ConfigMaps of files, by the namespaces in which these can change links."""
    own = [one for one in pods if not one.owner]
    drawn, names = list(topologies), list(others)
    namespaces = sorted(
        {one.pod.ref.namespace for one in own} | {one.namespace for one in drawn} | {place for place, _ in names}
    )
    return {
        namespace: Files(
            [one for one in own if one.pod.ref.namespace == namespace],
            [one for one in drawn if one.namespace == namespace],
            {name for place, name in names if place == namespace},
        )
        for namespace in namespaces
    }
