"""A call of the runtime, with the dependencies that the host (plugin or agent) provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ratchet import datapath
from ratchet.cni import budget
from ratchet.cni.arguments import Arguments
from ratchet.cni.command import Command
from ratchet.cni.config import NetworkConfig
from ratchet.errors import FollowedError, InvalidEnvironmentError, NamespaceGoneError, PodMissingError
from ratchet.node.interrupts import Interrupts
from ratchet.node.journal import Attachment, Journal, since_boot
from ratchet.node.overrides import NO_OVERRIDES, Overrides
from ratchet.node.underlay import FindUnderlay, UnderlayConfig, find_underlay
from ratchet.node.verified import VerifiedEnds

if TYPE_CHECKING:
    from ratchet.core.pod import Pod
    from ratchet.core.underlay import Underlay
    from ratchet.node.reconciler import Reconciler
    from ratchet.store.interface import Store


@dataclass(frozen=True, slots=True)
class Call:
    """The input of a CNI command, and the state of its sandbox (`SandboxState`).

    `connect` returns the API's records; its argument is the longest wait for the API in seconds. `began` is when the
    runtime called, in seconds since boot.

    `timed_from` is the start of the call's time budget (`cni.budget`), in seconds since boot: `began` if None. It is
    infinite if no caller waits for the reply.

    `wait` is how long ADD may wait for its peers, in seconds. If they have not joined by then, ADD fails if `require`
    is set, else the agent completes its links. Without `waits_for_cables`, ADD does not wait for the peers of links in
    panel wiring, whose interfaces exist without them.

    `interrupts` knows when the call may be interrupted.

    `find_underlay` returns the node's underlay. `node` is the node's name, empty if only the pod's object has it.
    `verified` collects the ends that are up, `overrides` has the operations on links.
    """

    arguments: Arguments
    network: NetworkConfig
    journal: Journal
    connect: Callable[[float], Store]
    began: float
    wait: float
    require: bool = True
    waits_for_cables: bool = True
    find_underlay: FindUnderlay = find_underlay
    node: str = ""
    verified: VerifiedEnds = field(default_factory=VerifiedEnds)
    timed_from: float | None = None
    interrupts: Interrupts = field(default_factory=Interrupts)
    overrides: Overrides = NO_OVERRIDES

    @property
    def underlay(self) -> UnderlayConfig:
        network = self.network
        return UnderlayConfig(network.parent_interface, network.parent_address, network.vxlan_port, network.guard)

    @property
    def attachment(self) -> Attachment:
        return Attachment(self.network.name, self.arguments.container_id, self.arguments.ifname)

    @property
    def delegating(self) -> bool:
        """Whether the configuration names delegates to run, instead of chaining Ratchet behind other plugins."""
        return self.network.delegate is not None or self.network.boot_network is not None

    def delegates(self) -> list[Mapping[str, Any]]:
        """The configurations of the delegated plugins."""
        return [config for config in (self.network.boot_network, self.network.delegate) if config is not None]

    def deleting(self, attachment: Attachment, netns: str) -> Call:
        """A DEL call for another attachment of this network, as if the runtime had called it."""
        variables = {
            **self.arguments.variables,
            "CNI_COMMAND": Command.DEL.value,
            "CNI_CONTAINERID": attachment.container_id,
            "CNI_IFNAME": attachment.ifname,
            "CNI_NETNS": netns,
        }
        arguments = replace(
            self.arguments,
            command=Command.DEL,
            container_id=attachment.container_id,
            ifname=attachment.ifname,
            netns=netns,
            variables=variables,
        )
        return replace(self, arguments=arguments)

    def wait_seconds(self, wanted: float) -> float:
        """How long ADD may go on to wait for its peers, if `wanted` more seconds are asked for."""
        return budget.wait_seconds(wanted, self._elapsed())

    def delegate_seconds(self, verb: Command) -> float:
        """How long a delegate's command may take from now on."""
        return budget.delegate_seconds(self.arguments.command, verb, self._elapsed())

    def _elapsed(self) -> float:
        return since_boot() - (self.began if self.timed_from is None else self.timed_from)

    def is_deleted(self) -> bool:
        return self.journal.is_buried(self.attachment, self.began)

    def refuse_superseded(self) -> None:
        """Raise FollowedError if another ADD of the same attachment has begun since, after a DEL."""
        if any(entry.began > self.began for entry in self.journal.to_delete(self.attachment)):
            raise FollowedError(
                f"cannot add {self.arguments.ifname} to container {self.arguments.container_id}: "
                "the runtime deleted it and added it again meanwhile"
            )

    def refuse_unusable_netns(self) -> None:
        """Reject an unusable CNI_NETNS.

        Raises InvalidEnvironmentError if it is no namespace, HostNamespaceError if it is the node's namespace.
        """
        try:
            with datapath.open_netns(self.arguments.netns) as netns:
                datapath.refuse_host(netns)
        except NamespaceGoneError as cause:
            raise InvalidEnvironmentError(f"cannot use CNI_NETNS: {cause}") from cause

    def reconciler(self, store: Store) -> Reconciler:
        from ratchet.node.reconciler import Reconciler  # a call for a pod without links needs none

        return Reconciler(store, self.journal, self, self.verified, self.overrides)

    def pod(self, store: Store) -> Pod:
        """The pod that the runtime's arguments name, perhaps from a cache. Raises PodMissingError."""
        arguments = self.arguments
        return self._named(store.pods.lookup(arguments.pod_namespace, arguments.pod_name, arguments.pod_uid))

    def current_pod(self, store: Store, pod: Pod) -> Pod:
        """The pod as the API has it now, after `pod`. Raises PodMissingError.

        A pod's own declaration is fixed when its sandbox starts, so an outdated one would never be corrected.
        """
        return self._named(store.pods.refresh(pod))

    def _named(self, pod: Pod | None) -> Pod:
        """The pod that was found under the name in the runtime's arguments, if it is the one that they mean."""
        namespace, name, uid = self.arguments.pod_namespace, self.arguments.pod_name, self.arguments.pod_uid
        if pod is None:
            raise PodMissingError(f"cannot find pod {namespace}/{name}: the API has no such pod")
        if uid and uid not in (pod.ref.uid, pod.ref.mirror):
            raise PodMissingError(
                f"cannot find pod {namespace}/{name} with UID {uid}: it has been replaced by one with UID {pod.ref.uid}"
            )
        return pod

    def node_underlay(self, store: Store, node: str) -> Underlay:
        """The underlay of this node. Raises InvalidConfigError if the configured parent does not exist."""
        return self.find_underlay(self.underlay, node, store)
