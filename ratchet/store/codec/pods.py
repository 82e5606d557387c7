"""Decode pods and topologies, as far as Ratchet reads them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from ratchet.core.escape import excerpt
from ratchet.core.intent import TOPOLOGY_KEY
from ratchet.core.intent.pods import ENABLED
from ratchet.core.intent.topology_limits import with_bounded_text
from ratchet.core.pod import MIRROR_ANNOTATION, Pod, PodRef, Topology
from ratchet.core.shared import shared_text
from ratchet.store.codec import NO_TEXTS, decode_time

_SETTINGS_START = f"{ENABLED}."
_MIRROR_MAX = 128  # characters; the kubelet's own are 32 or 36


def decode_pod(pod: Mapping[str, Any]) -> Pod:
    """The pod, with Ratchet's labels and annotations only."""
    metadata = pod.get("metadata", {})
    spec = pod.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    return Pod(
        ref=_ref(metadata),
        labels=_settings(metadata.get("labels") or {}),
        annotations=_settings(annotations),
        node=shared_text(spec.get("nodeName") or ""),
        phase=_phase(pod),
        deleting=bool(metadata.get("deletionTimestamp")),
        created=decode_time(metadata.get("creationTimestamp")),
        gates=tuple(gate.get("conditionType") or "" for gate in spec.get("readinessGates") or ()),
        host_network=bool(spec.get("hostNetwork")),
    )


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


def _settings(texts: Mapping[str, str]) -> Mapping[str, str]:
    """Ratchet's own labels or annotations. Those of kubectl or an operator can have kilobytes per pod."""
    return {
        shared_text(key): shared_text(value)
        for key, value in texts.items()
        if key == ENABLED or key.startswith(_SETTINGS_START)
    } or NO_TEXTS


def _mirror(annotations: Mapping[str, str]) -> str:
    """The static pod's UID in a mirror pod's annotations.

    An oversized value is ignored, because records hold it.
    """
    uid = annotations.get(MIRROR_ANNOTATION, "")
    return uid if len(uid) <= _MIRROR_MAX else ""
