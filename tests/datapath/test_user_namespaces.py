"""Pods with user namespaces (`hostUsers: false`): Ratchet acts in their network namespaces from outside.

Runtimes create them from containerd 2.0 and runc 1.2 on (kubernetes.io, "User Namespaces"). The nodes of tests/e2e have
Debian's containerd 1.6, so no end-to-end test has such pods.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from errno import EACCES, EPERM
from ipaddress import ip_network
from pathlib import Path

import pytest

from ratchet.core.differences import differences
from ratchet.core.endpoint_spec import Route
from ratchet.core.interface import InterfaceSpec
from ratchet.core.sandbox import Location
from ratchet.datapath import ensure, observe, remove, unplug
from ratchet.dev.testbed import wait_for
from tests.support.namespaces import Bed
from tests.support.wires import Wires

ONE, TWO = "10.9.0.1", "10.9.0.2"
ANY = "00:00:00:00:00:00"
# Prints the error with which the kernel refuses to list the links of another namespace.
LIST_LINKS = """
from ratchet.datapath import messages
from ratchet.datapath.rtnetlink import Channel
(answer,) = Channel().exchange(messages.links(nsid={nsid}))
print(answer.refusal.errno if answer.refusal else [len(answer.messages)])
"""
# Prints the error with which the kernel refuses to change an option of the pod's own tunnel.
TURN_BYPASS_ON = """
from tests.support.guard import turn_local_bypass_on
from ratchet.datapath.rtnetlink import RefusedError
try:
    turn_local_bypass_on("/proc/self/ns/net", "in1")
except RefusedError as refusal:
    print(refusal.errno)
"""


class Pods:
    """Network namespaces in a `Bed`, each owned by a user namespace that a process keeps."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self._pids: dict[str, int] = {}

    @contextmanager
    def added(self, *names: str) -> Iterator[None]:
        """Add pods for a block."""
        keepers = {name: _keeper() for name in names}
        try:
            for name, keeper in keepers.items():
                wait_for("a user namespace", lambda pid=keeper.pid: _has_own_namespaces(pid))  # type: ignore[misc]
                self.bed.attach(name, keeper.pid)
                self._pids[name] = keeper.pid
            yield
        finally:
            for keeper in keepers.values():
                keeper.kill()
                keeper.wait()

    def run(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as root of a pod's user namespace."""
        inside = ("nsenter", "-t", str(self._pids[name]), "--user", "--net", "--", *command)
        return subprocess.run(inside, capture_output=True, text=True, check=False)


def _keeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["unshare", "--user", "--map-root-user", "--net", "sleep", "infinity"])


def _has_own_namespaces(pid: int) -> bool:
    own, of_pod = (
        [Path(f"/proc/{process}/ns/{kind}").readlink() for kind in ("user", "net")] for process in ("self", pid)
    )
    mapped = bool(Path(f"/proc/{pid}/uid_map").read_text())
    return mapped and all(mine != theirs for mine, theirs in zip(own, of_pod, strict=True))


@pytest.fixture
def userns(bed: Bed) -> Iterator[Pods]:
    """Two nodes, and the pods a and b with user namespaces."""
    probe = subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this machine allows no user namespaces")
    bed.fabric(**{"node-1": f"{ONE}/24", "node-2": f"{TWO}/24"})
    pods = Pods(bed)
    with pods.added("pod-a", "pod-b"):
        yield pods


def with_all_settings(spec: InterfaceSpec) -> InterfaceSpec:
    """An interface with all settings that are applied by other means than those of a plain link."""
    return replace(
        spec,
        txqlen=77,
        routes=(Route(ip_network("10.77.0.0/16")),),
        sysctls=(("net.ipv4.conf.IFNAME.rp_filter", 2), ("net.ipv6.conf.IFNAME.forwarding", 1)),
        offloads=False,
        rate=100_000_000,
    )


def test_a_veth_between_pods_with_user_namespaces_has_all_settings(userns: Pods, wires: Wires) -> None:
    plain = wires.veth()
    wire = replace(plain, near=with_all_settings(plain.near), far=with_all_settings(plain.far))
    assert ensure(wire) is True
    assert differences(wire, observe(wire)) == ()
    assert userns.bed.pings("pod-a", "192.168.2.2")
    assert remove(Location(wire.near.netns), "in1") is True
    assert userns.bed.interfaces("pod-b") == []


def test_a_tunnel_between_pods_with_user_namespaces_has_all_settings(userns: Pods, wires: Wires) -> None:
    bed = userns.bed
    for node, pod, number, near, far in (("node-1", "pod-a", 0, ONE, TWO), ("node-2", "pod-b", 1, TWO, ONE)):
        with bed.inside(node):
            plain = wires.tunnel(pod, number, near, far)
            wire = replace(plain, near=with_all_settings(plain.near))
            assert ensure(wire) is True
            assert unplug(Location(wire.near.netns), "in1") is True
            assert ensure(wire) is True
            assert differences(wire, observe(wire)) == ()
    assert bed.pings("pod-a", "192.168.2.2")


def test_a_pod_with_a_user_namespace_can_only_change_where_its_tunnel_sends(userns: Pods, wires: Wires) -> None:
    """SECURITY.md, "Pods with NET_ADMIN". The change is found and reset."""
    bed = userns.bed
    with bed.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(wire)
    nsid = bed.show("pod-a", "in1")["link_netnsid"]
    new = f"ip link add x link-netnsid {nsid} type vxlan id 77 dstport 4799 remote {TWO}"
    refused = userns.run("pod-a", *new.split())
    assert "Operation not permitted" in refused.stderr
    listed = userns.run("pod-a", sys.executable, "-c", LIST_LINKS.format(nsid=nsid))
    assert listed.stdout == f"{EACCES}\n", listed.stderr
    # Newer kernels refuse any change of the device itself, such as the local bypass.
    bypass = userns.run("pod-a", sys.executable, "-c", TURN_BYPASS_ON)
    if bypass.stdout != f"{EPERM}\n":
        assert bypass.returncode == 0, bypass.stderr
        with bed.inside("node-1"):
            ensure(wire)
    append = f"bridge fdb append {ANY} dev in1 dst 10.9.0.99 port 8472 vni 12"
    assert userns.run("pod-a", *append.split()).returncode == 0
    with bed.inside("node-1"):
        assert len(differences(wire, observe(wire))) == 1
        assert ensure(wire) is True
        assert differences(wire, observe(wire)) == ()
