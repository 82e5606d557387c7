"""Decode pods and topologies, as far as Ratchet reads them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from ratchet.core.escape import excerpt
from ratchet.core.intent import LINKS, TOPOLOGY_KEY
from ratchet.core.intent.annotation_limits import with_bounded_links
from ratchet.core.intent.pods import ENABLED
from ratchet.core.intent.resolve import KNOWN, is_eligible
from ratchet.core.intent.topology_limits import with_bounded_text
from ratchet.core.pod import MIRROR_ANNOTATION, Pod, PodRef, Topology
from ratchet.core.shared import shared_text
from ratchet.store.announcements import LINKED_CONDITION
from ratchet.store.codec import NO_TEXTS, decode_time

_SETTINGS_START = f"{ENABLED}."
# Characters. The longest valid value is 16 IPv6 addresses.
_SETTING_MAX = 1024
_TOO_LONG = "\u2026"
# Unknown settings that are kept of a pod. They are only named in the log.
_UNKNOWN_MAX = 16
_NETWORKED = "PodReadyToStartContainers"  # kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle; since 1.29
_MIRROR_MAX = 128  # characters; the kubelet's own are 32 or 36


def decode_pod(pod: Mapping[str, Any]) -> Pod:
    """The pod, with Ratchet's labels and annotations only. Its list of links is withheld if it is too long.

    A pod that declares nothing, because it has ended or asks for no links, has an empty list.
    """
    metadata = pod.get("metadata", {})
    spec = pod.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    decoded = Pod(
        ref=_ref(metadata),
        labels=_settings(metadata.get("labels") or {}),
        annotations=_settings(annotations),
        node=shared_text(spec.get("nodeName") or ""),
        phase=_phase(pod),
        deleting=bool(metadata.get("deletionTimestamp")),
        created=decode_time(metadata.get("creationTimestamp")),
        gates=_gates(spec),
        host_network=bool(spec.get("hostNetwork")),
        networked=_networked(pod),
    )
    return with_bounded_links(decoded) if is_eligible(decoded) else _without_list(decoded)


def decode_pod_of_node(pod: Mapping[str, Any]) -> Pod:
    """The pod as by `decode_pod`, without its list of links: that is read from the namespace."""
    return _without_list(decode_pod(pod))


def decode_pod_phase(pod: Mapping[str, Any]) -> Pod:
    """The pod, with its reference and its phase only."""
    return Pod(_ref(pod.get("metadata", {})), NO_TEXTS, NO_TEXTS, phase=_phase(pod))


def decode_topology(config_map: Mapping[str, Any]) -> Topology:
    """The topology in a user's ConfigMap. It is withheld if it is too long."""
    metadata = config_map.get("metadata", {})
    text, fault = (config_map.get("data") or {}).get(TOPOLOGY_KEY), ""
    if text is None:
        text, fault = _other_content(config_map)
    namespace, name = metadata.get("namespace", ""), metadata.get("name", "")
    created = decode_time(metadata.get("creationTimestamp"))
    return with_bounded_text(Topology(namespace, name, text, created, fault=fault))


def _other_content(config_map: Mapping[str, Any]) -> tuple[str, str]:
    """The content of a topology without a list of links, as text, and why it has no list.

    `kubectl create configmap --from-file` names the key after the file, and takes a file that is not UTF-8 for binary.
    """
    data, binary = config_map.get("data") or {}, config_map.get("binaryData") or {}
    words = [f"found {', '.join(map(excerpt, sorted(data)))}"] if data else []
    words += [f"found {', '.join(map(excerpt, sorted(binary)))} as binary data"] if binary else []
    texts = [*data.values(), *map(_text_of_binary, binary.values())]
    return "\n".join(texts), f"it has no key {TOPOLOGY_KEY} in data: {excerpt('; '.join(words) or 'it is empty', 200)}"


def _text_of_binary(encoded: str) -> str:
    """The text in binary data, with the names in it also if it is UTF-16."""
    try:
        return b64decode(encoded).decode(errors="replace").replace("\0", "")
    except ValueError:
        return ""


def _ref(metadata: Mapping[str, Any]) -> PodRef:
    namespace, name, uid = (shared_text(metadata.get(key, "")) for key in ("namespace", "name", "uid"))
    return PodRef(namespace, name, uid, _mirror(metadata.get("annotations") or {}))


def _phase(pod: Mapping[str, Any]) -> str:
    return shared_text((pod.get("status") or {}).get("phase") or "Pending")


def _networked(pod: Mapping[str, Any]) -> datetime | None:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == _NETWORKED and condition.get("status") == "True":
            return decode_time(condition.get("lastTransitionTime"))
    return None


def _settings(texts: Mapping[str, str]) -> Mapping[str, str]:
    """Ratchet's own labels or annotations. Those of kubectl or an operator can have kilobytes per pod.

    Of unknown ones, a few keys are kept without their values.
    """
    own = [key for key in texts if key == ENABLED or key.startswith(_SETTINGS_START)]
    unknown = [key for key in own if key not in KNOWN][:_UNKNOWN_MAX]
    found = {shared_text(key): _setting(key, texts[key]) for key in own if key in KNOWN}
    return found | {shared_text(key): "" for key in unknown} or NO_TEXTS


def _setting(key: str, value: str) -> str:
    """A value. One that is too long to be valid is shortened, and still invalid."""
    if key != LINKS and len(value) > _SETTING_MAX:
        value = value[:_SETTING_MAX] + _TOO_LONG
    return shared_text(value)


def _without_list(pod: Pod) -> Pod:
    if LINKS not in pod.annotations:
        return pod
    return replace(pod, annotations={**pod.annotations, LINKS: ""})


def _gates(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Ratchet's own readiness gate, if the pod has it."""
    types = (gate.get("conditionType") for gate in spec.get("readinessGates") or ())
    return (LINKED_CONDITION,) if LINKED_CONDITION in types else ()


def _mirror(annotations: Mapping[str, str]) -> str:
    """The static pod's UID in a mirror pod's annotations.

    An oversized value is ignored, because records hold it.
    """
    uid = annotations.get(MIRROR_ANNOTATION, "")
    return uid if len(uid) <= _MIRROR_MAX else ""
