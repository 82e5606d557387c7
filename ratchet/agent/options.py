"""The options of the agent: name, help, default and reader of each setting, and its command-line flag.

The option `node_name` is the flag `--node-name`, the variable `RATCHET_NODE_NAME` and the key `node_name` of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ratchet.agent.frame import SOCKET
from ratchet.cni import values
from ratchet.cni.config import (
    ANNOTATION_BYTES_PER_NAMESPACE,
    TOPOLOGIES_PER_NAMESPACE,
    TOPOLOGY_BYTES_PER_NAMESPACE,
    TOPOLOGY_LINKS_PER_NAMESPACE,
)
from ratchet.cni.plugin_keys import (
    AGENT_WAIT_SECONDS,
    DEFAULT_NAMESPACE,
    DEFAULT_STATE_DIR,
    DEFAULT_VNI_RANGE,
    DEFAULT_VXLAN_PORT,
    LOG_LEVELS,
    WAIT_POLICIES,
)
from ratchet.core.intent import WAIT_MAX_SECONDS
from ratchet.core.kinds import DEFAULT_WIRING
from ratchet.core.limits import (
    DECLARATION_MEMORY_MIB,
    DEFAULT_ANNOTATION_LIMITS,
    DEFAULT_TOPOLOGY_LIMITS,
    LINKS_PER_NAMESPACE,
    LINKS_PER_NODE,
    LINKS_PER_POD,
)
from ratchet.core.panel import PANEL_PATH
from ratchet.core.ports import FURTHER_PORTS, PORT_MOST

DEFAULT_METRICS_ADDR = ":9472"
DEFAULT_HEALTH_ADDR = "127.0.0.1:9473"
LOG_FORMATS = ("text", "json")
HEARTBEATS_TO_BE_LOST = 3

_SOCKET_PATH_BYTES = 107  # unix(7): sun_path has 108 bytes, the last of them zero
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_WHOLE = re.compile(r"[0-9]{1,12}")
_RANGE = re.compile(r"[0-9]{1,8}-[0-9]{1,8}")
_ADDRESS = re.compile(r"(?P<host>|\[[0-9a-fA-F:.]+\]|[^:\[\]/\s]+):(?P<port>[0-9]{1,5})")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. `read` converts a given value; its ValueError describes the valid values.

    An option without a `metavar` is a switch. `also` has further variables. An empty variable counts as not set, unless
    the option `may_be_empty`.
    """

    group: str
    name: str
    metavar: str
    help: str
    read: values.Reader[Any]
    default: object = None
    default_text: str = ""
    also: tuple[str, ...] = ()
    may_be_empty: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variables(self) -> tuple[str, ...]:
        return (variable(self.name), *self.also)

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


def variable(name: str) -> str:
    """The environment variable of an option."""
    return f"RATCHET_{name.upper()}"


def host_and_port(address: str) -> tuple[str, int]:
    """Host ("" for all addresses) and port of "host:port", ":port" or "[address]:port".

    Raises ValueError that names the valid forms.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ValueError('"host:port", ":port" or "[address]:port"')
    return match["host"].strip("[]"), int(match["port"])


# Readers: flags and variables are text, a value in the file may also have its type.


def _from_text(
    pattern: re.Pattern[str], convert: Callable[[str], object], read: values.Reader[values.Value]
) -> values.Reader[values.Value]:
    """The reader `read`, which also takes text that matches the pattern."""
    return lambda value: read(convert(value) if isinstance(value, str) and pattern.fullmatch(value) else value)


def _seconds(low: float, high: float) -> values.Reader[float]:
    return _from_text(_NUMBER, float, values.seconds(low, high))


def _whole(low: int, high: int) -> values.Reader[int]:
    return _from_text(_WHOLE, int, values.whole_number(low, high))


def _first_and_last(text: str) -> list[int]:
    return [int(part) for part in text.split("-")]


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


def _listen_address(value: object) -> str:
    address = value if isinstance(value, str) else str(value)
    if address:
        host_and_port(address)
    return address


def _is_root(path: str) -> bool:
    return not path or (values.is_absolute_path(path) and not path.endswith("/"))


def _is_socket(path: str) -> bool:
    return values.is_absolute_path(path) and len(path.encode()) <= _SOCKET_PATH_BYTES


_root = values.text("an absolute path, or nothing", _is_root)
_socket = values.text(f"an absolute path of at most {_SOCKET_PATH_BYTES} bytes", _is_socket)
_vni_range = _from_text(_RANGE, _first_and_last, values.vni_range('"first-last"'))
_port_range = _from_text(_RANGE, _first_and_last, values.port_range('"first-last"'))

_API, _NODE, _LINKS, _LIVENESS, _OBSERVABILITY = "Kubernetes API", "node", "links", "liveness", "observability"

# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option(_API, "kubeconfig", "FILE", "kubeconfig for the Kubernetes API", values.path,
           default_text="in-cluster credentials"),
    Option(_API, "namespace", "NAME", "namespace of the link records; the same on all nodes", values.namespace,
           DEFAULT_NAMESPACE),
    Option(_API, "topologies", "{on,off}",
           "whether ConfigMaps declare links. Set off if the account does not have the ClusterRole ratchet-topologies",
           _on_or_off, default=True),
    Option(_API, "topologies_per_namespace", "N",
           "most topologies of a namespace; the same on all nodes. The oldest are used. ratchet-daemonless does not "
           "read this setting and the next three: set the keys of these names for it",
           _from_text(_WHOLE, int, TOPOLOGIES_PER_NAMESPACE), DEFAULT_TOPOLOGY_LIMITS.topologies),
    Option(_API, "topology_links_per_namespace", "N",
           "most links in all topologies of a namespace; the same on all nodes. A link takes some 2 kB of memory",
           _from_text(_WHOLE, int, TOPOLOGY_LINKS_PER_NAMESPACE), DEFAULT_TOPOLOGY_LIMITS.links),
    Option(_API, "topology_bytes_per_namespace", "N",
           "most bytes in all topologies of a namespace; the same on all nodes. They take up to 80 times as much "
           "memory",
           _from_text(_WHOLE, int, TOPOLOGY_BYTES_PER_NAMESPACE), DEFAULT_TOPOLOGY_LIMITS.size),
    Option(_API, "annotation_bytes_per_namespace", "N",
           "most bytes in all annotations ratchet.links of a namespace; the same on all nodes. Those of the oldest "
           "pods are used",
           _from_text(_WHOLE, int, ANNOTATION_BYTES_PER_NAMESPACE), DEFAULT_ANNOTATION_LIMITS.size),
    Option(_API, "declaration_memory", "MIB",
           "most memory of the agent for the topologies and annotations of all namespaces with pods on its node, in "
           "MiB. Namespaces that need the most get less first. If you raise it, raise the agent's memory limit by as "
           "much",
           _whole(8, 65536), DECLARATION_MEMORY_MIB),
    Option(_NODE, "node_name", "NAME", "name of the Node object of this node", values.node_name,
           default_text="the host name", also=("NODE_NAME",)),
    Option(_NODE, "socket", "PATH",
           "Unix socket for CNI calls. If you change it, set RATCHET_AGENT_SOCKET in the runtime's environment too",
           _socket, SOCKET),
    Option(_NODE, "state_dir", "DIR",
           "directory for the state of the node's sandboxes. Use a disk that outlives the agent",
           values.path, DEFAULT_STATE_DIR),
    Option(_NODE, "spool_dir", "DIR",
           "directory for DELs that arrive while the agent is down. If you change it, set RATCHET_AGENT_SPOOL in the "
           "runtime's environment too",
           values.path, default_text="spool in the state directory"),
    Option(_NODE, "panel", "PATH",
           "path of the network namespace that is the node's patch panel, which the shim makes. If you change it, set "
           "RATCHET_PANEL in the runtime's environment too",
           values.path, PANEL_PATH),
    Option(_NODE, "host_root", "DIR",
           "mount point of the node's file system, if not the agent's own. Delegate plugins run there (chroot)",
           _root, "", "the agent's own file system", may_be_empty=True),
    Option(_NODE, "parent_interface", "NAME",
           "underlay interface, which carries the tunnels. Its VTEP is an InternalIP of the node, else its first "
           "address",
           values.interface, default_text="the interface with the node's InternalIP, else the default route's"),
    Option(_NODE, "parent_address", "ADDR", "VTEP of this node: the address by which other nodes reach it",
           values.ip_address, default_text="found, and followed when it changes"),
    Option(_LINKS, "wiring", "WIRING", "wiring of new links that declare none; those of the labels of 2017 are direct",
           values.wiring, DEFAULT_WIRING),
    Option(_LINKS, "vxlan_port", "N",
           "UDP port of the tunnels; the same on all nodes. vxlan_port in the network configuration overrides it. "
           "ratchet-daemonless does not read this setting: set vxlan_port for it",
           _whole(1, PORT_MOST), DEFAULT_VXLAN_PORT),
    Option(_LINKS, "vxlan_ports", "FIRST-LAST",
           "first and last UDP port that links may use. It must include vxlan_port and the next two, which tunnels on "
           "one node use",
           _port_range, default_text=f"vxlan_port and the next {FURTHER_PORTS} ports"),
    Option(_LINKS, "guard", "",
           "accept tunnel datagrams from the VTEP of a link's peer only. Set off if the underlay translates addresses "
           "(NAT). guard in the network configuration overrides it",
           _switch, default=True),
    Option(_LINKS, "vni_range", "FIRST-LAST",
           "first and last VNI. Do not share VNIs with other VXLANs of the cluster", _vni_range, DEFAULT_VNI_RANGE,
           "-".join(map(str, DEFAULT_VNI_RANGE))),
    Option(_LINKS, "links_per_pod", "N",
           "greatest number of links of one pod. The ADD of a pod with more links fails with code 101. A running pod "
           "takes no further link",
           _whole(1, values.LINKS_MOST), LINKS_PER_POD),
    Option(_LINKS, "links_per_namespace", "N",
           "greatest number of links that a namespace may declare, and of their VNIs. The same on all nodes",
           _whole(1, values.LINKS_MOST), LINKS_PER_NAMESPACE),
    Option(_LINKS, "links_per_node", "N",
           "greatest number of links with an end on this node. A namespace gets at most three quarters of what the "
           "others leave. Each link takes up to 28 KiB: if you raise it, raise the agent's memory limit",
           _whole(1, values.LINKS_MOST), LINKS_PER_NODE),
    Option(_LINKS, "wait", "SECONDS",
           "longest time that ADD waits for peers; 0: ADD does not wait. wait in the network configuration and "
           "ratchet.wait of the pod override it",
           _seconds(0, WAIT_MAX_SECONDS), default_text=f"0; for links in direct wiring {AGENT_WAIT_SECONDS:g}"),
    Option(_LINKS, "wait_policy", "POLICY",
           "result of ADD if the peers did not come in time. proceed: ADD succeeds, and the agent completes the link "
           "later. require: ADD fails with code 11. wait_policy in the network configuration overrides it",
           values.one_of(*WAIT_POLICIES), "proceed"),
    Option(_LINKS, "workers", "N",
           "threads that reconcile links. One thread works on a link at a time. A quarter of the threads is kept from "
           "each namespace, for the others",
           _whole(1, 256), 8),
    Option(_LINKS, "resync", "SECONDS",
           "interval between resyncs. A resync reconciles all links from the cache and lists the VNI Leases of this "
           "node's links",
           _seconds(10, 86400), 300.0),
    Option(_LIVENESS, "heartbeat", "SECONDS",
           "interval between renewals of the node Lease. Every second time, the agent reads the Leases of the other "
           "nodes",
           _seconds(1, 3600), 10.0),
    Option(_LIVENESS, "node_lost_after", "SECONDS",
           "time without a Lease renewal after which a node that is not Ready is lost; at least "
           f"{HEARTBEATS_TO_BE_LOST} heartbeats",
           _seconds(HEARTBEATS_TO_BE_LOST, 86400), 40.0),
    Option(_LIVENESS, "drain_seconds", "SECONDS", "longest time that SIGTERM waits for running calls",
           _seconds(0, 600), 20.0),
    Option(_OBSERVABILITY, "metrics_addr", "ADDR",
           'listen address of /metrics and of the endpoint for ratchet inspect; "" disables them. It serves /livez and '
           "/readyz too, for the probes of earlier manifests",
           _listen_address, DEFAULT_METRICS_ADDR, may_be_empty=True),
    Option(_OBSERVABILITY, "health_addr", "ADDR",
           'listen address of /livez and /readyz, for the probes of the kubelet; "" disables them',
           _listen_address, DEFAULT_HEALTH_ADDR, may_be_empty=True),
    Option(_OBSERVABILITY, "log_format", "FORMAT", f"log format: {' or '.join(LOG_FORMATS)}",
           values.one_of(*LOG_FORMATS), "text"),
    Option(_OBSERVABILITY, "log_level", "LEVEL", f"lowest log level: {', '.join(LOG_LEVELS)}",
           values.one_of(*LOG_LEVELS), "info"),
    Option(_OBSERVABILITY, "events", "", "send Events on pods about their links", _switch, default=True),
    Option(_OBSERVABILITY, "readiness", "",
           "set the condition ratchet/linked on pods that have it as a readiness gate", _switch, default=True),
)
# fmt: on
