"""Settings of the agent: flags, environment variables and a file, read and validated.

The flag `--node-name` is the variable `RATCHET_NODE_NAME` and the key `node_name` of the file. A flag overrides the
variable, the variable overrides the file, and the file overrides the default.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ratchet.agent.frame import SOCKET
from ratchet.cni.arguments import ifname_fault, is_dns_label, is_dns_subdomain
from ratchet.cni.config import (
    DEFAULT_NAMESPACE,
    DEFAULT_STATE_DIR,
    DEFAULT_VNI_RANGE,
    DEFAULT_VXLAN_PORT,
    LOG_LEVELS,
    WAIT_POLICIES,
)
from ratchet.core.escape import quoted
from ratchet.core.intent import WAIT_MAX_SECONDS
from ratchet.errors import InvalidConfigError

DEFAULT_METRICS_ADDR = ":9472"
LOG_FORMATS = ("text", "json")
HEARTBEATS_TO_BE_LOST = 3

_SOCKET_PATH_BYTES = 107  # unix(7): sun_path has 108, the last of them zero
_FIRST_VNI, _LAST_VNI = 1, DEFAULT_VNI_RANGE[1]
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_WHOLE = re.compile(r"[0-9]{1,12}")
_RANGE = re.compile(r"([0-9]{1,8})-([0-9]{1,8})")
_ADDRESS = re.compile(r"(?P<host>|\[[0-9a-fA-F:.]+\]|[^:\[\]/\s]+):(?P<port>[0-9]{1,5})")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")

Read = Callable[[object], Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an agent; `_OPTIONS` has the meaning of each.

    `kubeconfig` is None for in-cluster credentials. The parent is None if the agent has to find it. `wait`, `resync`,
    `heartbeat`, `node_lost_after` and `drain_seconds` are seconds. `vni_range` is the first and the last VNI.
    `metrics_addr` is "host:port", ":port" for all addresses, or "" for no metrics. `host_root` is "" if the agent has
    the node's own file system.
    """

    node_name: str
    kubeconfig: str | None
    namespace: str
    topologies: bool
    socket: str
    state_dir: str
    spool_dir: str
    host_root: str
    parent_interface: str | None
    parent_address: str | None
    vxlan_port: int
    vni_range: tuple[int, int]
    wait: float
    wait_policy: str
    workers: int
    resync: float
    heartbeat: float
    node_lost_after: float
    metrics_addr: str
    log_format: str
    log_level: str
    events: bool
    readiness: bool
    drain_seconds: float


def read_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings of a command line and an environment.

    Raises InvalidConfigError that names the flag, the variable or the key. For an unknown flag argparse prints the
    usage and ends the process with status 2.
    """
    parser = argparse.ArgumentParser(prog="ratchet agent")
    add_arguments(parser)
    return settings_of(parser.parse_args(argv), environ)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the agent's flags; `settings_of` reads them."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"file of settings, YAML or JSON (default: none; env: {_variable('config')})"
    )
    groups = {option.group: parser.add_argument_group(option.group) for option in _OPTIONS}
    for option in _OPTIONS:
        text = f"{option.help} (default: {option.shown}; env: {', '.join(option.variables)})".replace("%", "%%")
        if option.metavar:
            groups[option.group].add_argument(option.flag, metavar=option.metavar, help=text)
        else:
            groups[option.group].add_argument(option.flag, action=argparse.BooleanOptionalAction, help=text)


def settings_of(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """The settings of parsed arguments (of `add_arguments`) and an environment.

    Raises InvalidConfigError that names the flag, the variable or the key, and the value.
    """
    path: str = arguments.config or environ.get(_variable("config")) or ""
    file = _file(path) if path else {}
    given = {option.name: _given(option, arguments, environ, file, path) for option in _OPTIONS}
    values: dict[str, Any] = {}
    for option in _OPTIONS:
        found = given[option.name]
        values[option.name] = option.value_of(found) if found else option.default
    if values["node_name"] is None:
        values["node_name"] = _own_name()
    if values["spool_dir"] is None:
        values["spool_dir"] = f"{values['state_dir'].rstrip('/')}/spool"
    settings = Settings(**values)
    if settings.node_lost_after < HEARTBEATS_TO_BE_LOST * settings.heartbeat:
        raise _too_soon_lost(settings, given)
    return settings


def host_and_port(address: str) -> tuple[str, int]:
    """Host ("" for all addresses) and port of "host:port", ":port" or "[address]:port".

    Raises ValueError that names the valid forms.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ValueError('"host:port", ":port" or "[address]:port"')
    return match["host"].strip("[]"), int(match["port"])


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and its source: the flag, the variable, or the key and its file."""

    value: object
    where: str


@dataclass(frozen=True, slots=True)
class _Option:
    """One setting. `read` converts a given value; its ValueError names the valid values.

    A setting without a `metavar` is a switch. `also` has further variables. An empty variable counts as not set, unless
    the setting `may_be_empty`.
    """

    group: str
    name: str
    metavar: str
    help: str
    read: Read
    default: object = None
    default_text: str = ""
    also: tuple[str, ...] = ()
    may_be_empty: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variables(self) -> tuple[str, ...]:
        return (_variable(self.name), *self.also)

    @property
    def shown(self) -> str:
        """The default as text."""
        if self.default_text:
            return self.default_text
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def accepts(self) -> str:
        """The valid values as text, such as "an absolute path"."""
        try:
            self.read(None)
        except ValueError as wanted:
            return str(wanted)
        raise AssertionError(f"{self.name} accepts null")

    def value_of(self, given: _Given) -> Any:
        try:
            return self.read(given.value)
        except ValueError as wanted:
            raise _fault(f"{given.where} must be {wanted}, not {quoted(given.value)}") from wanted


def _variable(name: str) -> str:
    return f"RATCHET_{name.upper()}"


def _given(
    option: _Option, arguments: argparse.Namespace, environ: Mapping[str, str], file: Mapping[str, Any], path: str
) -> _Given | None:
    """The value that overrides the others; None if there is only the default."""
    flag = getattr(arguments, option.name)
    if flag is not None:
        return _Given(flag, option.flag)
    for variable in option.variables:
        value = environ.get(variable)
        if value or (value is not None and option.may_be_empty):
            return _Given(value, variable)
    if file.get(option.name) is not None:
        return _Given(file[option.name], f'"{option.name}" in {path}')
    return None


def _file(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text) if path.endswith(".json") else _yaml(text)
    except (OSError, ValueError, RecursionError) as cause:
        said = cause.strerror if isinstance(cause, OSError) else " ".join(str(cause).split())
        raise InvalidConfigError(f"cannot read the settings in {path}: {said}") from cause
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidConfigError(f"cannot read the settings in {path}: {quoted(content)} is not a mapping")
    known = {option.name for option in _OPTIONS}
    if unknown := [str(key) for key in content if key not in known]:
        raise InvalidConfigError(
            f"cannot read the settings in {path}: unknown keys: {', '.join(map(quoted, unknown))}",
            details=f"known are: {', '.join(sorted(known))}",
        )
    return content


def _yaml(text: str) -> Any:
    """The content of a YAML text; raises ValueError."""
    import yaml  # here, because the agent without such a file and the other commands start without it

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as cause:
        raise ValueError(str(cause)) from cause


def _own_name() -> str:
    """The node name that the kubelet derives from this host's name."""
    name = os.uname().nodename.strip().lower()
    if not is_dns_subdomain(name):
        raise _fault(f"the host name {quoted(name)} is not a valid node name: set --node-name")
    return name


def _too_soon_lost(settings: Settings, given: Mapping[str, _Given | None]) -> InvalidConfigError:
    def source(name: str) -> str:
        found = given[name]
        return found.where if found else f"{name} (default)"

    least = HEARTBEATS_TO_BE_LOST * settings.heartbeat
    return _fault(
        f"{source('node_lost_after')} must be at least {HEARTBEATS_TO_BE_LOST} times {source('heartbeat')}, "
        f"so {least:g} seconds, not {settings.node_lost_after:g}"
    )


def _fault(cause: str) -> InvalidConfigError:
    return InvalidConfigError(f"cannot read the agent's settings: {cause}")


# Readers of values: a value is text, or of the type that it has in the file.


def _text(wanted: str, holds: Callable[[str], object]) -> Read:
    def read(value: object) -> str:
        if isinstance(value, str) and holds(value):
            return value
        raise ValueError(wanted)

    return read


def _one_of(*choices: str) -> Read:
    return _text(f"one of {', '.join(choices)}", lambda text: text in choices)


def _seconds(low: float, high: float) -> Read:
    def read(value: object) -> float:
        number = float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
        if isinstance(number, int | float) and not isinstance(number, bool) and low <= number <= high:
            return float(number)
        raise ValueError(f"a number of seconds from {low:g} to {high:g}")

    return read


def _whole(low: int, high: int) -> Read:
    def read(value: object) -> int:
        number = int(value) if isinstance(value, str) and _WHOLE.fullmatch(value) else value
        if isinstance(number, int) and not isinstance(number, bool) and low <= number <= high:
            return number
        raise ValueError(f"a whole number from {low} to {high}")

    return read


def _switch(value: object) -> bool:
    word = str(value).lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError("true or false")


def _on_or_off(value: object) -> bool:
    """YAML reads a bare on or off as a boolean."""
    if value in ("on", "off"):
        return value == "on"
    if isinstance(value, bool):
        return value
    raise ValueError("one of on, off")


def _vni_range(value: object) -> tuple[int, int]:
    match = _RANGE.fullmatch(value) if isinstance(value, str) else None
    numbers = [int(match[1]), int(match[2])] if match else value
    match numbers:
        case [int(low), int(high)] if _FIRST_VNI <= low <= high <= _LAST_VNI and bool not in map(type, numbers):
            return low, high
    raise ValueError(f'"first-last" within {_FIRST_VNI} to {_LAST_VNI}')


def _is_path(text: str) -> bool:
    return text.startswith("/") and text.isprintable()


def _is_address(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return "%" not in text and not address.is_unspecified and not address.is_multicast


def _metrics_address(value: object) -> str:
    address = value if isinstance(value, str) else str(value)
    if address:
        host_and_port(address)
    return address


_path = _text("an absolute path", _is_path)
_socket = _text(
    f"an absolute path of at most {_SOCKET_PATH_BYTES} bytes",
    lambda text: _is_path(text) and len(text.encode()) <= _SOCKET_PATH_BYTES,
)
_root = _text("an absolute path, or nothing", lambda text: not text or (_is_path(text) and not text.endswith("/")))
_node_name = _text("the name of a node", is_dns_subdomain)
_namespace = _text("the name of a Kubernetes namespace", is_dns_label)
_interface = _text("the name of an interface", lambda text: not ifname_fault(text))
_address = _text("an IP address of one interface", _is_address)

_API, _NODE, _LINKS, _LIVENESS, _OBSERVABILITY = "Kubernetes API", "node", "links", "liveness", "observability"

# fmt: off
_OPTIONS: tuple[_Option, ...] = (
    _Option(_API, "kubeconfig", "FILE", "kubeconfig for the Kubernetes API", _path,
            default_text="in-cluster credentials"),
    _Option(_API, "namespace", "NAME", "namespace of the link records; the same on all nodes", _namespace,
            DEFAULT_NAMESPACE),
    _Option(_API, "topologies", "{on,off}",
            "whether ConfigMaps declare links. Set off if the account does not have the ClusterRole ratchet-topologies",
            _on_or_off, default=True),
    _Option(_NODE, "node_name", "NAME", "name of the Node object of this node", _node_name,
            default_text="the host name", also=("NODE_NAME",)),
    _Option(_NODE, "socket", "PATH",
            "Unix socket for CNI calls. If you change it, set RATCHET_AGENT_SOCKET in the runtime's environment too",
            _socket, SOCKET),
    _Option(_NODE, "state_dir", "DIR",
            "directory for the state of the node's sandboxes. Use a disk that outlives the agent",
            _path, DEFAULT_STATE_DIR),
    _Option(_NODE, "spool_dir", "DIR",
            "directory for DELs that arrive while the agent is down. If you change it, set RATCHET_AGENT_SPOOL in the "
            "runtime's environment too",
            _path, default_text="spool in the state directory"),
    _Option(_NODE, "host_root", "DIR",
            "mount point of the node's file system, if not the agent's own. Delegate plugins run there (chroot)",
            _root, "", "the agent's own file system", may_be_empty=True),
    _Option(_NODE, "parent_interface", "NAME",
            "underlay interface, which carries the tunnels. Its VTEP is an InternalIP of the node, else its first "
            "address",
            _interface, default_text="the interface with the node's InternalIP, else the default route's"),
    _Option(_NODE, "parent_address", "ADDR", "VTEP of this node: the address by which other nodes reach it", _address,
            default_text="found, and followed when it changes"),
    _Option(_LINKS, "vxlan_port", "N",
            "UDP port of the tunnels; the same on all nodes. vxlan_port in the network configuration overrides it. "
            "ratchet-daemonless does not read this setting: set vxlan_port for it",
            _whole(1, 65535), DEFAULT_VXLAN_PORT),
    _Option(_LINKS, "vni_range", "FIRST-LAST",
            "first and last VNI. Do not share VNIs with other VXLANs of the cluster", _vni_range, DEFAULT_VNI_RANGE,
            "-".join(map(str, DEFAULT_VNI_RANGE))),
    _Option(_LINKS, "wait", "SECONDS",
            "longest time that ADD waits for peers; 0: ADD does not wait. wait in the network configuration and "
            "ratchet.wait of the pod override it",
            _seconds(0, WAIT_MAX_SECONDS), 5.0),
    _Option(_LINKS, "wait_policy", "POLICY",
            "result of ADD if the peers did not come in time. proceed: ADD succeeds, and the agent completes the link "
            "later. require: ADD fails with code 11. wait_policy in the network configuration overrides it",
            _one_of(*WAIT_POLICIES), "proceed"),
    _Option(_LINKS, "workers", "N", "threads that reconcile links. One thread works on a link at a time",
            _whole(1, 256), 8),
    _Option(_LINKS, "resync", "SECONDS",
            "interval between resyncs. A resync reconciles all links from the cache and lists the VNI Leases of this "
            "node's links",
            _seconds(10, 86400), 300.0),
    _Option(_LIVENESS, "heartbeat", "SECONDS",
            "interval between renewals of the node Lease. Every second time, the agent reads the Leases of the other "
            "nodes",
            _seconds(1, 3600), 10.0),
    _Option(_LIVENESS, "node_lost_after", "SECONDS",
            "time without a Lease renewal after which a node that is not Ready is lost; at least "
            f"{HEARTBEATS_TO_BE_LOST} heartbeats",
            _seconds(HEARTBEATS_TO_BE_LOST, 86400), 40.0),
    _Option(_LIVENESS, "drain_seconds", "SECONDS", "longest time that SIGTERM waits for running calls",
            _seconds(0, 600), 20.0),
    _Option(_OBSERVABILITY, "metrics_addr", "ADDR",
            'listen address of /metrics, /livez, /readyz and of the endpoint for ratchet inspect; "" disables them',
            _metrics_address, DEFAULT_METRICS_ADDR, may_be_empty=True),
    _Option(_OBSERVABILITY, "log_format", "FORMAT", f"log format: {' or '.join(LOG_FORMATS)}", _one_of(*LOG_FORMATS),
            "text"),
    _Option(_OBSERVABILITY, "log_level", "LEVEL", f"lowest log level: {', '.join(LOG_LEVELS)}", _one_of(*LOG_LEVELS),
            "info"),
    _Option(_OBSERVABILITY, "events", "", "send Events on pods about their links", _switch, default=True),
    _Option(_OBSERVABILITY, "readiness", "",
            "set the condition ratchet/linked on pods that have it as a readiness gate", _switch, default=True),
)
# fmt: on
