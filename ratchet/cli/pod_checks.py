"""Checks of the pods of manifests: pods with one name, and pods for which the runtime calls no plugin."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ratchet.cli.manifests import ManifestPod
from ratchet.cli.problems import Problem
from ratchet.core.escape import excerpt
from ratchet.core.intent import Wanted, asks_for_links, names_of

_SHOWN_MOST = 3


def find_pod_problems(pods: Collection[ManifestPod], wanted: Wanted) -> Iterator[Problem]:
    """The problems of pods that ask for links. `wanted` are the links of their namespace."""
    asking = [one for one in pods if asks_for_links(one.pod) and not one.pod.finished]
    yield from _same_names(asking)
    for one in asking:
        has_links = bool(wanted.ends_of(one.pod))
        if one.on_host_network:
            text = f"{one.place}: pod {one.pod.ref} has hostNetwork: true: the runtime calls no CNI plugin for it"
            yield Problem(has_links, text)
        elif one.on_each_node and has_links:
            text = f"{one.place}: {one.owner} creates a pod on each node: only one of them can have these links"
            yield Problem(False, text)


def _same_names(pods: Collection[ManifestPod]) -> Iterator[Problem]:
    """Names that several pods have. Links go to the newest of them, and the others start without."""
    by_name: dict[str, list[ManifestPod]] = {}
    for one in pods:
        if not one.pod.deleting:
            for name in names_of(one.pod):
                by_name.setdefault(name, []).append(one)
    for name, same in by_name.items():
        if len(same) > 1:
            shown = ", ".join(str(one.pod.ref) for one in same[:_SHOWN_MOST])
            others = f" and {len(same) - _SHOWN_MOST} others" if len(same) > _SHOWN_MOST else ""
            text = f"{same[0].place}: {len(same)} pods have the name {excerpt(name)}, and one of them gets its links"
            yield Problem(True, f"{text}: {shown}{others}")
