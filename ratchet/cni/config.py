"""The network configuration on stdin: the specification's keys (SPEC.md, section 1) and Ratchet's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from ratchet.cni import values
from ratchet.cni.attachments import ValidAttachment, valid_attachments
from ratchet.cni.command import Command
from ratchet.cni.config_errors import config_error, invalid_key
from ratchet.cni.decode import decode
from ratchet.cni.plugin_keys import (
    DEFAULT_NAMESPACE,
    DEFAULT_VNI_RANGE,
    LOG_LEVELS,
    PLUGIN_KEYS,
    TOPOLOGIES,
    WAIT_POLICIES,
)
from ratchet.cni.result import Result
from ratchet.cni.versions import SUPPORTED, supported
from ratchet.core.escape import quoted
from ratchet.core.kinds import DEFAULT_WIRING, Wiring
from ratchet.core.limits import (
    DEFAULT_ANNOTATION_LIMITS,
    DEFAULT_TOPOLOGY_LIMITS,
    LINKS_PER_NAMESPACE,
    LINKS_PER_POD,
    AnnotationLimits,
    LinkLimits,
    TopologyLimits,
)
from ratchet.core.ports import PORT_MOST, PortRange
from ratchet.errors import InvalidConfigError, UndecodableError, UnsupportedVersionError

_TOPOLOGIES = values.one_of(*TOPOLOGIES)
_WAIT_POLICY = values.one_of(*WAIT_POLICIES)
_LOG_LEVEL = values.one_of(*LOG_LEVELS)
_SECONDS = values.seconds()
_PORT = values.whole_number(1, PORT_MOST)
_PORT_RANGE = values.port_range("[first, last]")
TOPOLOGIES_PER_NAMESPACE = values.whole_number(1, 10_000)
TOPOLOGY_LINKS_PER_NAMESPACE = values.whole_number(1, 1_000_000)
TOPOLOGY_BYTES_PER_NAMESPACE = values.whole_number(1024, 1 << 30)
ANNOTATION_BYTES_PER_NAMESPACE = values.whole_number(1024, 1 << 30)
_VNI_RANGE = values.vni_range("[first, last]")
_COUNT = values.whole_number(1, values.LINKS_MOST)
_LIMITS = {
    "topologies_per_namespace": (TOPOLOGIES_PER_NAMESPACE, DEFAULT_TOPOLOGY_LIMITS.topologies),
    "topology_links_per_namespace": (TOPOLOGY_LINKS_PER_NAMESPACE, DEFAULT_TOPOLOGY_LIMITS.links),
    "topology_bytes_per_namespace": (TOPOLOGY_BYTES_PER_NAMESPACE, DEFAULT_TOPOLOGY_LIMITS.size),
    "annotation_bytes_per_namespace": (ANNOTATION_BYTES_PER_NAMESPACE, DEFAULT_ANNOTATION_LIMITS.size),
    "links_per_pod": (_COUNT, LINKS_PER_POD),
    "links_per_namespace": (_COUNT, LINKS_PER_NAMESPACE),
}

# fmt: off
_SPECIFIED = frozenset({
    "cniVersion", "cniVersions", "name", "type", "prevResult", "runtimeConfig",
    "capabilities", "args", "dns", "ipMasq", "ipam",
    "disableCheck", "disableGC", "loadOnlyInlinedPlugins",
})
# fmt: on
# Keys of the 2017 prototype that are ignored: Ratchet has no etcd and no child process.
RETIRED_KEYS = ("etcd_host", "etcd_port", "child_path", "use_labels", "cniDir")

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")  # libcni, pkg/utils: network names


_PLUGIN_KEY_NAMES = frozenset(key.name for key in PLUGIN_KEYS)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A validated network configuration; `PLUGIN_KEYS` documents the keys that Ratchet defines.

    `raw` is the object on stdin. `valid_attachments` is None if the runtime gave no list, which is not an empty list.
    `wait` is in seconds. Keys that are not set are None, unless they have a default here. `vni_range` is the first and
    the last VNI, `vxlan_ports` the first and the last UDP port. `ignored` has the keys of the 2017 prototype, `unknown`
    the unknown keys.
    """

    raw: Mapping[str, Any]
    cni_version: str
    name: str
    type: str
    prev_result: Result | None
    valid_attachments: tuple[ValidAttachment, ...] | None
    runtime_config: Mapping[str, Any]
    delegate: Mapping[str, Any] | None
    boot_network: Mapping[str, Any] | None
    parent_interface: str | None
    parent_address: str | None
    kubeconfig: str | None
    namespace: str
    topologies: bool
    topologies_per_namespace: int
    topology_links_per_namespace: int
    topology_bytes_per_namespace: int
    annotation_bytes_per_namespace: int
    wait: float | None
    wait_policy: str | None
    wiring: Wiring
    vxlan_port: int | None
    vxlan_ports: PortRange | None
    guard: bool | None
    vni_range: tuple[int, int]
    links_per_pod: int
    links_per_namespace: int
    log_file: str | None
    log_level: str
    state_dir: str | None
    ignored: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def limits(self) -> LinkLimits:
        return LinkLimits(self.links_per_pod, self.links_per_namespace)

    @property
    def topology_limits(self) -> TopologyLimits:
        return TopologyLimits(
            self.topologies_per_namespace, self.topology_links_per_namespace, self.topology_bytes_per_namespace
        )

    @property
    def annotation_limits(self) -> AnnotationLimits:
        return AnnotationLimits(self.annotation_bytes_per_namespace)


def read_config(stdin: bytes, command: Command = Command.ADD) -> NetworkConfig:
    """Read the configuration that a runtime passes for `command`.

    Raises UndecodableError (code 6) if stdin is not a JSON object, UnsupportedVersionError (1), and
    InvalidConfigError (7), whose message names the key. DEL ignores an unreadable `prevResult`: it comes from the
    runtime's cache, and DEL must succeed (SPEC.md, section 2, "DEL").
    """
    raw = _object(stdin)
    version = _version(raw)
    own_type = _plugin_type(raw, "type")
    return NetworkConfig(
        raw=raw,
        cni_version=version,
        name=_name(raw),
        type=own_type,
        prev_result=_prev_result(raw, version, command),
        valid_attachments=valid_attachments(raw),
        runtime_config=_read(raw, "runtimeConfig", values.mapping) or {},
        delegate=_delegate(raw, "delegate", own_type),
        boot_network=_delegate(raw, "boot_network", own_type),
        parent_interface=_read(raw, "parent_interface", values.interface),
        parent_address=_read(raw, "parent_address", values.ip_address),
        kubeconfig=_read(raw, "kubeconfig", values.path),
        namespace=_read(raw, "namespace", values.namespace) or DEFAULT_NAMESPACE,
        topologies=_read(raw, "topologies", _TOPOLOGIES) != "off",
        wait=_read(raw, "wait", _SECONDS),
        wait_policy=_read(raw, "wait_policy", _WAIT_POLICY),
        wiring=_read(raw, "wiring", values.wiring) or DEFAULT_WIRING,
        vxlan_port=_read(raw, "vxlan_port", _PORT),
        vxlan_ports=_read(raw, "vxlan_ports", _PORT_RANGE),
        guard=_read(raw, "guard", values.boolean),
        vni_range=_read(raw, "vni_range", _VNI_RANGE) or DEFAULT_VNI_RANGE,
        **{key: _read(raw, key, read) or default for key, (read, default) in _LIMITS.items()},
        log_file=_read(raw, "log_file", values.path),
        log_level=_read(raw, "log_level", _LOG_LEVEL) or "info",
        state_dir=_read(raw, "state_dir", values.path),
        ignored=tuple(key for key in RETIRED_KEYS if key in raw),
        unknown=tuple(sorted(key for key in raw if not _is_known(key))),
    )


def _read(raw: Mapping[str, Any], key: str, read: values.Reader[values.Value]) -> values.Value | None:
    """The value of a key; None if it is absent or null. Raises InvalidConfigError that names the key."""
    value = raw.get(key)
    if value is None:
        return None
    try:
        return read(value)
    except ValueError as wanted:
        raise invalid_key(key, str(wanted), value) from wanted


def _object(stdin: bytes) -> dict[str, Any]:
    try:
        raw = decode(stdin)
    except ValueError as error:
        cause = str(error) if stdin.strip() else "stdin is empty"
        raise UndecodableError(f"cannot decode the network configuration: {cause}") from error
    if not isinstance(raw, dict):
        raise UndecodableError(f"cannot decode the network configuration: {quoted(raw)} is not an object")
    return raw


def _version(raw: Mapping[str, Any]) -> str:
    return supported(_read(raw, "cniVersion", values.string) or "")


def _name(raw: Mapping[str, Any]) -> str:
    name = _read(raw, "name", values.string)
    if not name:
        raise config_error('"name" is missing')
    if not _NAME.fullmatch(name):
        raise invalid_key("name", "made of letters, digits, '_', '.' and '-', a letter or digit first", name)
    return name


def is_plugin_type(name: object) -> TypeGuard[str]:
    """Whether this is a plain file name, which cannot lead out of CNI_PATH (CVE-2021-20206)."""
    return isinstance(name, str) and name.isprintable() and name not in ("", ".", "..") and not set(name) & set("/\\")


def _plugin_type(raw: Mapping[str, Any], key: str) -> str:
    name = raw.get("type")
    if name is None:
        raise config_error(f'"{key}" is missing')
    if not is_plugin_type(name):
        raise invalid_key(key, "the plain name of a plugin", name)
    return name


def _delegate(raw: Mapping[str, Any], key: str, own_type: str) -> Mapping[str, Any] | None:
    delegate = _read(raw, key, values.mapping)
    if delegate is None:
        return None
    if _plugin_type(delegate, f"{key}.type") == own_type:
        raise config_error(f'"{key}.type" is {quoted(own_type)} itself, which would call itself for ever')
    name, version = delegate.get("name"), delegate.get("cniVersion")
    if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise invalid_key(f"{key}.name", "made of letters, digits, '_', '.' and '-', a letter or digit first", name)
    if version is not None and version not in ("", *SUPPORTED):
        raise UnsupportedVersionError(
            f'cannot read the network configuration: "{key}.cniVersion" {quoted(version)} is not supported',
            details=f"supported versions: {', '.join(SUPPORTED)}",
        )
    return delegate


def _prev_result(raw: Mapping[str, Any], version: str, command: Command) -> Result | None:
    prev = raw.get("prevResult")
    if prev is None:
        return None
    stated = prev.get("cniVersion") if isinstance(prev, dict) else None
    try:
        return Result.from_json(prev, stated if stated in SUPPORTED else version)
    except ValueError as error:
        if command is Command.DEL:
            return None
        raise InvalidConfigError(f'cannot read the network configuration: "prevResult": {error}') from error


def _is_known(key: str) -> bool:
    return key in _SPECIFIED or key in _PLUGIN_KEY_NAMES or key in RETIRED_KEYS or key.startswith("cni.dev/")
