"""The API as Ratchet uses it: one store per kind of object."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ratchet.core.intent import Wanted, WantedLink, wanted_links
from ratchet.core.kinds import DEFAULT_WIRING, Wiring
from ratchet.core.limits import (
    DEFAULT_ANNOTATION_LIMITS,
    DEFAULT_LIMITS,
    DEFAULT_TOPOLOGY_LIMITS,
    AnnotationLimits,
    LinkLimits,
    TopologyLimits,
)
from ratchet.core.model import Link
from ratchet.core.pod import Pod
from ratchet.errors import TopologiesUnknownError
from ratchet.retry import call_with_retries
from ratchet.store.apiserver import ApiServer
from ratchet.store.formats import RecordFormats
from ratchet.store.links import LinkStore
from ratchet.store.listwatch import FIRST_PAUSE, LONGEST_PAUSE
from ratchet.store.nodes import NodeAddressCache, NodeStore
from ratchet.store.pods import PodStore
from ratchet.store.topologies import TopologyStore
from ratchet.store.vni import VniAllocator
from ratchet.store.vni_leases import VniLeases

if TYPE_CHECKING:
    import tenacity


class ApiStore:
    """The links and VNIs in one namespace of the API, and the cluster's pods, topologies and nodes.

    Each question is a request. The optional arguments hold what the process has learnt before: `allocator` the VNIs in
    use, `formats` the formats of records, `addresses` the addresses of nodes. Without `use_topologies` no topology is
    ever listed. `limits` are the limits on links, `topology_limits` and `annotation_limits` those on declarations;
    they are the same on all nodes. `default_wiring` is the node's wiring of links for which none is declared.
    """

    def __init__(
        self,
        api: ApiServer,
        namespace: str = "ratchet",
        vni_range: tuple[int, int] = (11, 16777215),
        allocator: VniAllocator | None = None,
        formats: RecordFormats | None = None,
        addresses: NodeAddressCache | None = None,
        *,
        use_topologies: bool = True,
        limits: LinkLimits = DEFAULT_LIMITS,
        topology_limits: TopologyLimits = DEFAULT_TOPOLOGY_LIMITS,
        annotation_limits: AnnotationLimits = DEFAULT_ANNOTATION_LIMITS,
        default_wiring: Wiring = DEFAULT_WIRING,
    ) -> None:
        self.api = api
        self.namespace = namespace
        self.formats = RecordFormats() if formats is None else formats
        self.limits = limits
        self.default_wiring = default_wiring
        self.vnis = VniLeases(api, namespace, vni_range, allocator, limits.per_namespace)
        self.links = LinkStore(api, namespace, self.vnis)
        self.pods = PodStore(api, annotation_limits)
        self.topologies = TopologyStore(api, enabled=use_topologies, limits=topology_limits)
        self.nodes = NodeStore(api, namespace, addresses)

    def ready(self) -> None:
        """Check that the API serves Ratchet's namespace and, if they are used, topologies.

        Raises RatchetError.
        """
        self.api.get(f"{self.links.path}?limit=1")
        self.topologies.check()

    def as_recorded(self, wanted: WantedLink) -> Link:
        """The wanted link under the name of its record; see `RecordFormats.as_recorded`."""
        return self.formats.as_recorded(wanted, self)

    def watch_wanted(self, pod: Pod, reserved: frozenset[str], seconds: float, until: float) -> Iterator[Wanted]:
        """The wanted links of the pod's namespace: now, and after each change until `until` (monotonic).

        `reserved` are the interface names that no link may have. Waits up to `seconds` for forbidden topologies, then
        raises TopologiesUnknownError.
        """
        namespace, retries = pod.ref.namespace, partial(_topology_retries, seconds)
        topologies = call_with_retries(partial(self.topologies.list, namespace), TopologiesUnknownError, retries)
        pods, version = self.pods.list_with_version(namespace)
        yield wanted_links(pods, reserved, topologies=topologies)
        for changed in self.pods.watch_lists(namespace, pods, version, until):
            yield wanted_links(changed, reserved, topologies=self.topologies.list(namespace))


def _topology_retries(seconds: float, elapsed: float) -> tenacity.Retrying:
    import tenacity  # only for a retry: the import takes 7 ms

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TopologiesUnknownError),
        stop=tenacity.stop_before_delay(seconds - elapsed),
        wait=tenacity.wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
        reraise=True,
    )
