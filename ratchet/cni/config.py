"""The network configuration on stdin: the specification's keys (SPEC.md, section 1) and Ratchet's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

from ratchet.cni import values
from ratchet.cni.arguments import Command
from ratchet.cni.decode import decode
from ratchet.cni.result import Result
from ratchet.cni.versions import SUPPORTED, supported
from ratchet.core.escape import quoted
from ratchet.errors import InvalidConfigError, UndecodableError, UnsupportedVersionError

DEFAULT_NAMESPACE = "ratchet"
DEFAULT_STATE_DIR = "/var/lib/cni/ratchet"
DEFAULT_VXLAN_PORT = 4789
DEFAULT_VNI_RANGE = (11, values.LAST_VNI)  # the prototype's first VNI was 11
WAIT_POLICIES = ("proceed", "require")
TOPOLOGIES = ("on", "off")
LOG_LEVELS = ("debug", "info", "warning", "error")

_TOPOLOGIES = values.one_of(*TOPOLOGIES)
_WAIT_POLICY = values.one_of(*WAIT_POLICIES)
_LOG_LEVEL = values.one_of(*LOG_LEVELS)
_SECONDS = values.seconds()
_VNI_RANGE = values.vni_range("[first, last]")

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
# An early text of the specification had the second name by mistake; libcni writes both (cni#1101).
VALID_ATTACHMENTS_KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")


class PluginKey(NamedTuple):
    """A key that Ratchet defines, for docs/configuration.md. `daemonless_only`: an agent ignores it."""

    name: str
    default: str
    meaning: str
    daemonless_only: bool = False


PLUGIN_KEYS = (
    PluginKey("delegate", "", "configuration of the plugin for pods without links"),
    PluginKey("boot_network", "", "configuration of the plugin for pods with links, instead of `delegate`"),
    PluginKey(
        "parent_interface",
        "the interface with the node's InternalIP, else the default route's",
        "underlay interface, which carries the tunnels. Its VTEP is an InternalIP of the node, else its first address",
    ),
    PluginKey("parent_address", "found", "VTEP of this node: the address by which other nodes reach it"),
    PluginKey(
        "kubeconfig",
        "the one of `ratchet install`, else /etc/cni/net.d/ratchet.d/kubeconfig, else in-cluster credentials",
        "kubeconfig for the Kubernetes API",
        daemonless_only=True,
    ),
    PluginKey("namespace", DEFAULT_NAMESPACE, "namespace of the link records; the same on all nodes", True),
    PluginKey(
        "topologies",
        TOPOLOGIES[0],
        "whether ConfigMaps declare links. With `off` the account needs no access to ConfigMaps outside of `namespace`",
        daemonless_only=True,
    ),
    PluginKey("wait", "60; with an agent its `--wait`", "longest time that ADD waits for peers. 0: ADD does not wait"),
    PluginKey(
        "wait_policy",
        "require; with an agent its `--wait-policy`",
        "result of ADD if the peers did not come in time. `require`: ADD fails with code 11. `proceed`: ADD succeeds, "
        "and the agent completes the link later. Without an agent `proceed` has no effect",
    ),
    PluginKey(
        "vxlan_port",
        f"{DEFAULT_VXLAN_PORT}; with an agent its `--vxlan-port`",
        "UDP port of the tunnels; the same on all nodes",
    ),
    PluginKey("guard", "true; with an agent its `--guard`", "accept tunnel datagrams from the peer's VTEP only"),
    PluginKey(
        "vni_range",
        json.dumps(DEFAULT_VNI_RANGE),
        "first and last VNI. A VNI is unique in the cluster. It is used again after its link is gone, on another node "
        "within about a minute",
        daemonless_only=True,
    ),
    PluginKey("log_file", "", "file for the log, in addition to stderr", daemonless_only=True),
    PluginKey("log_level", "info", "lowest log level", daemonless_only=True),
    PluginKey(
        "state_dir",
        f"the one of `ratchet install`, else {DEFAULT_STATE_DIR}",
        "directory for the state of the node's sandboxes",
        daemonless_only=True,
    ),
)
_PLUGIN_KEY_NAMES = frozenset(key.name for key in PLUGIN_KEYS)


@dataclass(frozen=True, slots=True)
class ValidAttachment:
    """A valid attachment in a GC call: the container ID and interface name of its ADD."""

    container_id: str
    ifname: str


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A validated network configuration; `PLUGIN_KEYS` documents the keys that Ratchet defines.

    `raw` is the object on stdin. `valid_attachments` is None if the runtime gave no list, which is not an empty list.
    `wait` is in seconds. Keys that are not set are None, unless they have a default here. `vni_range` is the first
    and the last VNI. `ignored` has the keys of the 2017 prototype, `unknown` the unknown keys.
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
    wait: float | None
    wait_policy: str | None
    vxlan_port: int | None
    guard: bool | None
    vni_range: tuple[int, int]
    log_file: str | None
    log_level: str
    state_dir: str | None
    ignored: tuple[str, ...]
    unknown: tuple[str, ...]


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
        valid_attachments=_valid_attachments(raw),
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
        vxlan_port=_read(raw, "vxlan_port", values.whole_number(1, 65535)),
        guard=_read(raw, "guard", values.boolean),
        vni_range=_read(raw, "vni_range", _VNI_RANGE) or DEFAULT_VNI_RANGE,
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
        raise _invalid(key, str(wanted), value) from wanted


def _invalid(key: str, wanted: str, value: object) -> InvalidConfigError:
    """The error for a key with an invalid value; `wanted` describes the valid ones."""
    return _fault(f'"{key}" must be {wanted}, not {quoted(value)}')


def _fault(cause: str) -> InvalidConfigError:
    return InvalidConfigError(f"cannot read the network configuration: {cause}")


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
        raise _fault('"name" is missing')
    if not _NAME.fullmatch(name):
        raise _invalid("name", "made of letters, digits, '_', '.' and '-', a letter or digit first", name)
    return name


def is_plugin_type(name: object) -> TypeGuard[str]:
    """Whether this is a plain file name, which cannot lead out of CNI_PATH (CVE-2021-20206)."""
    return isinstance(name, str) and name.isprintable() and name not in ("", ".", "..") and not set(name) & set("/\\")


def _plugin_type(raw: Mapping[str, Any], key: str) -> str:
    name = raw.get("type")
    if name is None:
        raise _fault(f'"{key}" is missing')
    if not is_plugin_type(name):
        raise _invalid(key, "the plain name of a plugin", name)
    return name


def _delegate(raw: Mapping[str, Any], key: str, own_type: str) -> Mapping[str, Any] | None:
    delegate = _read(raw, key, values.mapping)
    if delegate is None:
        return None
    if _plugin_type(delegate, f"{key}.type") == own_type:
        raise _fault(f'"{key}.type" is {quoted(own_type)} itself, which would call itself for ever')
    name, version = delegate.get("name"), delegate.get("cniVersion")
    if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise _invalid(f"{key}.name", "made of letters, digits, '_', '.' and '-', a letter or digit first", name)
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


def _valid_attachments(raw: Mapping[str, Any]) -> tuple[ValidAttachment, ...] | None:
    key = next((key for key in VALID_ATTACHMENTS_KEYS if key in raw), VALID_ATTACHMENTS_KEYS[0])
    # libcni writes null for a list that was never created. That is a missing list, not an empty one.
    listed = raw.get(key)
    if listed is None:
        return None
    if not isinstance(listed, list):
        raise _invalid(key, "a list of attachments", listed)
    return tuple(_attachment(item, f"{key}[{index}]") for index, item in enumerate(listed))


def _attachment(item: object, at: str) -> ValidAttachment:
    if isinstance(item, dict):
        container_id, ifname = item.get("containerID"), item.get("ifname")
        if isinstance(container_id, str) and isinstance(ifname, str) and container_id and ifname:
            return ValidAttachment(container_id, ifname)
    raise _invalid(at, 'an object with "containerID" and "ifname"', item)


def _is_known(key: str) -> bool:
    return key in _SPECIFIED or key in _PLUGIN_KEY_NAMES or key in RETIRED_KEYS or key.startswith("cni.dev/")
