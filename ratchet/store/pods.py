"""Pods in the API."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from ratchet.core.intent import names_of
from ratchet.core.intent.annotation_limits import ListAdmission, admit_lists
from ratchet.core.limits import DEFAULT_ANNOTATION_LIMITS, AnnotationLimits
from ratchet.core.pod import Pod
from ratchet.store.api_errors import NotFoundError
from ratchet.store.apiserver import ApiServer
from ratchet.store.codec.pods import decode_pod, decode_pod_of_node, decode_pod_phase
from ratchet.store.listwatch import Changed, Failed, Listed, Source, list_watch
from ratchet.store.paging import restarts_expired
from ratchet.store.paths import pods_path
from ratchet.store.session import Watched

PodList = list[Pod]
PodChanges = Iterator[tuple["PodChange | None", str]]

_PODS = "/api/v1/pods"


class PodChange(NamedTuple):
    """A pod after a change. With `gone`, the pod before its deletion."""

    pod: Pod
    gone: bool

    def apply_to(self, pods: dict[str, Pod]) -> None:
        """Apply the change to the pods of a namespace, by name."""
        if self.gone:
            pods.pop(self.pod.ref.name, None)
        else:
            pods[self.pod.ref.name] = self.pod


class PodStore:
    """The pods of the cluster. Each question is a request.

    Of a namespace's list, annotations over the `limits` are withheld.
    """

    def __init__(self, api: ApiServer, limits: AnnotationLimits = DEFAULT_ANNOTATION_LIMITS) -> None:
        self._api = api
        self.limits = limits

    def get(self, namespace: str, name: str) -> Pod | None:
        """The pod in the API; None if there is none."""
        try:
            return decode_pod(self._api.get(f"{pods_path(namespace)}/{name}"))
        except NotFoundError:
            return None

    def lookup(self, namespace: str, name: str, uid: str) -> Pod | None:  # noqa: ARG002
        """The pod, from a cache if it has the pod with this UID. The API's pod may have another UID."""
        return self.get(namespace, name)

    def refresh(self, pod: Pod) -> Pod | None:
        """The pod of this name as the API has it now, after `lookup`; None if there is none."""
        return pod  # `lookup` has read it from the API

    @restarts_expired
    def list(self, namespace: str | None = None) -> PodList:
        """The pods of a namespace (None: of all namespaces) in the API."""
        return self.list_with_version(namespace)[0]

    def list_with_version(self, namespace: str | None = None) -> tuple[PodList, str]:
        """The pods as by `list`, and the version from which a watch continues."""
        if namespace is None:
            return self._api.list_decoded(_PODS, decode_pod)
        admission = ListAdmission(self.limits)
        _, version = self._api.list_decoded(pods_path(namespace), lambda item: admission.add(decode_pod(item)))
        return admission.admitted(), version

    @restarts_expired
    def list_phases(self) -> PodList:
        """All pods of the cluster, with their references and phases only."""
        return self._api.list_decoded(_PODS, decode_pod_phase)[0]

    def lookup_all(self, namespace: str) -> PodList:
        """The pods of a namespace, from a cache if there is one."""
        return self.list(namespace)

    def lookup_named(self, namespace: str, names: Collection[str]) -> PodList:
        """The pods that have one of these names, from a cache if there is one.

        A pod's names are its own name and `ratchet.pod_name`.
        """
        return [pod for pod in self.list(namespace) if not names_of(pod).isdisjoint(names)]

    def list_of_node(self, node: str) -> tuple[PodList, str]:
        """The pods that are bound to a node, and the version from which a watch continues.

        They are without their lists of links, which count in their namespaces only.
        """
        return self._api.list_decoded(_PODS, decode_pod_of_node, fieldSelector=f"spec.nodeName={node}")

    def watch(self, namespace: str, version: str, seconds: float) -> PodChanges:
        """Each change of a namespace's pods after `version`, with its version, for at most `seconds`."""
        return self._api.watch_decoded(pods_path(namespace), version, seconds, _change)

    def watch_of_node(self, node: str, version: str, seconds: float) -> PodChanges:
        """Each change of the pods that are bound to a node, as by `watch`."""
        return self._api.watch_decoded(_PODS, version, seconds, _change_of_node, fieldSelector=f"spec.nodeName={node}")

    def source(self, namespace: str) -> Source[Pod, PodChange]:
        """The pods of a namespace, for a list-watch."""
        return Source(
            f"pods of namespace {namespace}",
            list=lambda: self.list_with_version(namespace),
            watch=lambda version, seconds: self.watch(namespace, version, seconds),
        )

    def watch_lists(self, namespace: str, pods: Collection[Pod], version: str, until: float) -> Iterator[PodList]:
        """The pods of a namespace after each change, until `until` (monotonic seconds).

        `pods` is the list at `version`.
        """
        current = {one.ref.name: one for one in pods}
        for event in list_watch(self.source(namespace), version=version, until=until):
            match event:
                case Changed(change):
                    change.apply_to(current)
                case Listed(listed):
                    current = {one.ref.name: one for one in listed}
                case Failed():
                    event.raise_if_fatal()
                    continue
            current = {one.ref.name: one for one in admit_lists(current.values(), self.limits)}
            yield list(current.values())


def _change(event: Watched, decode: Callable[[Mapping[str, Any]], Pod] = decode_pod) -> tuple[PodChange | None, str]:
    change = None if event.type == "BOOKMARK" else PodChange(decode(event.object), event.type == "DELETED")
    return change, event.object["metadata"]["resourceVersion"]


def _change_of_node(event: Watched) -> tuple[PodChange | None, str]:
    return _change(event, decode_pod_of_node)
