"""The keys of the network configuration that Ratchet defines, and their defaults."""

from __future__ import annotations

import json
from typing import NamedTuple

from ratchet.cni import values
from ratchet.core.kinds import DEFAULT_WIRING
from ratchet.core.limits import DEFAULT_ANNOTATION_LIMITS, DEFAULT_TOPOLOGY_LIMITS, LINKS_PER_NAMESPACE, LINKS_PER_POD
from ratchet.core.ports import FURTHER_PORTS

DEFAULT_NAMESPACE = "ratchet"
DEFAULT_STATE_DIR = "/var/lib/cni/ratchet"
DEFAULT_VXLAN_PORT = 4789
DEFAULT_VNI_RANGE = (11, values.LAST_VNI)  # the prototype's first VNI was 11
# How long an ADD that an agent serves waits for peers, if nothing sets `wait`.
AGENT_WAIT_SECONDS = 5.0
WAIT_POLICIES = ("proceed", "require")
TOPOLOGIES = ("on", "off")
LOG_LEVELS = ("debug", "info", "warning", "error")


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
    PluginKey(
        "topologies_per_namespace",
        str(DEFAULT_TOPOLOGY_LIMITS.topologies),
        "most topologies of a namespace; the same on all nodes. The oldest are used",
        daemonless_only=True,
    ),
    PluginKey(
        "topology_links_per_namespace",
        str(DEFAULT_TOPOLOGY_LIMITS.links),
        "most links in all topologies of a namespace; the same on all nodes",
        daemonless_only=True,
    ),
    PluginKey(
        "topology_bytes_per_namespace",
        str(DEFAULT_TOPOLOGY_LIMITS.size),
        "most bytes in all topologies of a namespace; the same on all nodes",
        daemonless_only=True,
    ),
    PluginKey(
        "annotation_bytes_per_namespace",
        str(DEFAULT_ANNOTATION_LIMITS.size),
        "most bytes in all annotations `ratchet.links` of a namespace; the same on all nodes. Those of the oldest pods "
        "are used",
        daemonless_only=True,
    ),
    PluginKey(
        "wait",
        "60; with an agent its `--wait`",
        "longest time that ADD waits for peers. 0: ADD does not wait. More than 150 counts as 150",
    ),
    PluginKey(
        "wait_policy",
        "require; with an agent its `--wait-policy`",
        "result of ADD if the peers did not come in time. `require`: ADD fails with code 11. `proceed`: ADD succeeds, "
        "and the agent completes the link later. Without an agent `proceed` has no effect",
    ),
    PluginKey(
        "wiring",
        DEFAULT_WIRING,
        "wiring of new links that declare none; those of the labels of 2017 are direct",
        daemonless_only=True,
    ),
    PluginKey(
        "vxlan_port",
        f"{DEFAULT_VXLAN_PORT}; with an agent its `--vxlan-port`",
        "UDP port of the tunnels; the same on all nodes",
    ),
    PluginKey(
        "vxlan_ports",
        f"`vxlan_port` and the next {FURTHER_PORTS} ports",
        "first and last UDP port that links may use. It must include `vxlan_port` and the next two, which tunnels on "
        "one node use",
        daemonless_only=True,
    ),
    PluginKey("guard", "true; with an agent its `--guard`", "accept tunnel datagrams from the peer's VTEP only"),
    PluginKey(
        "vni_range",
        json.dumps(DEFAULT_VNI_RANGE),
        "first and last VNI. A VNI is unique in the cluster. It is used again after its link is gone, on another node "
        "within about a minute",
        daemonless_only=True,
    ),
    PluginKey(
        "links_per_pod",
        str(LINKS_PER_POD),
        "greatest number of links of one pod. The ADD of a pod with more links fails with code 101",
        daemonless_only=True,
    ),
    PluginKey(
        "links_per_namespace",
        str(LINKS_PER_NAMESPACE),
        "greatest number of links that a namespace may declare, and of VNIs that its links may have. The same on all "
        "nodes",
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
