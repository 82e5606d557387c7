"""The CNI plugins of Debian as delegates, in network namespaces of a node and a pod."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ratchet.cni.result import Interface, IPConfig, Result, Route

PLUGINS = Path("/usr/lib/cni")
REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.skipif(not (PLUGINS / "ptp").exists(), reason="needs Debian's containernetworking-plugins"),
]

# Script that runs one verb on one delegation in the node's netns; input and output are JSON.
VERB = """
import json, sys
from ratchet.cni import delegate
from ratchet.cni.arguments import read_arguments
from ratchet.cni.config import read_config
from ratchet.cni.delegation import Delegation
from ratchet.errors import RatchetError

call = json.load(sys.stdin)
arguments = read_arguments(call["environ"])
network = read_config(json.dumps(call["network"]).encode(), arguments.command)
try:
    if call["verb"] == "add":
        done = delegate.add(call["delegate"], network, arguments)
        answer = {"delegation": done.to_json(), "result": done.decoded_result().to_json(network.cni_version)}
    elif call["verb"] in ("check", "delete"):
        answer = {"said": getattr(delegate, call["verb"])(Delegation.from_json(call["delegation"]), arguments)}
    else:
        answer = {"ran": getattr(delegate, call["verb"])(call["delegate"], network, arguments)}
except RatchetError as error:
    answer = {"error": str(error), "code": error.code, "details": error.details}
json.dump(answer, sys.stdout)
"""
COMMANDS = {"add": "ADD", "check": "CHECK", "delete": "DEL", "gc": "GC", "status": "STATUS"}


@dataclass
class Bed:
    """Network namespaces of a node and a pod, and the directory of host-local's leases."""

    node: str
    pod: str
    leases: Path

    def ptp(self, **keys: Any) -> dict[str, Any]:
        ipam = {"type": "host-local", "subnet": "10.77.0.0/24", "dataDir": str(self.leases)}
        return {"type": "ptp", "ipam": ipam, **keys}

    def run(self, verb: str, version: str = "1.0.0", netns: str | None = None, **call: Any) -> dict[str, Any]:
        environ = {
            "CNI_COMMAND": COMMANDS[verb],
            "CNI_CONTAINERID": "abc",
            "CNI_NETNS": f"/run/netns/{self.pod}" if netns is None else netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(PLUGINS),
        }
        network = {"name": "links", "type": "ratchet", "cniVersion": version, **call.pop("network", {})}
        stdin = json.dumps({"verb": verb, "environ": environ, "network": network, **call})
        command = ["ip", "netns", "exec", self.node, sys.executable, "-c", VERB]
        process = subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=REPOSITORY, check=True)
        answer = json.loads(process.stdout)
        assert isinstance(answer, dict)
        return answer

    def interfaces(self, namespace: str) -> dict[str, list[str]]:
        """Return the interfaces of a namespace that are up, with their IPv4 addresses."""
        shown = subprocess.run(
            ["ip", "-n", namespace, "-json", "-4", "address", "show", "up"], capture_output=True, text=True, check=True
        )
        found = [interface for interface in json.loads(shown.stdout or "[]") if interface]
        return {it["ifname"]: [f"{at['local']}/{at['prefixlen']}" for at in it["addr_info"]] for it in found}

    def leased(self) -> list[str]:
        return sorted(path.name for path in self.leases.glob("*/10.77.0.*"))


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    tag = uuid4().hex[:8]
    testbed = Bed(f"cni-node-{tag}", f"cni-pod-{tag}", tmp_path / "leases")
    try:
        for namespace in (testbed.node, testbed.pod):
            subprocess.run(["ip", "netns", "add", namespace], check=True)
        yield testbed
    finally:
        for namespace in (testbed.node, testbed.pod):
            subprocess.run(["ip", "netns", "delete", namespace], check=False)


VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]


@pytest.mark.parametrize("version", VERSIONS)
def test_ptp_is_added_checked_and_deleted_in_every_version(bed: Bed, version: str) -> None:
    added = bed.run("add", version, delegate=bed.ptp())
    assert "error" not in added
    # The binaries of Debian 12 support at most 1.0.0, so Ratchet calls them with 1.0.0 instead of 1.1.0.
    assert added["delegation"]["config"]["cniVersion"] == min(version, "1.0.0")
    assert added["result"]["cniVersion"] == version
    address = bed.interfaces(bed.pod)["eth0"]
    assert address == [f"{bed.leased()[0]}/24"]
    if version in ("0.1.0", "0.2.0"):
        assert [added["result"]["ip4"]["ip"]] == address
    else:
        assert [ip["address"] for ip in added["result"]["ips"]] == address
        assert [ip.get("version") for ip in added["result"]["ips"]] == ["4" if version < "1.0.0" else None]
        eth0 = added["result"]["interfaces"][added["result"]["ips"][0]["interface"]]
        assert (eth0["name"], eth0["sandbox"]) == ("eth0", f"/run/netns/{bed.pod}")

    assert bed.run("check", version, delegation=added["delegation"]) == {"said": ""}
    assert bed.run("delete", version, delegation=added["delegation"]) == {"said": ""}
    assert (bed.interfaces(bed.pod), bed.interfaces(bed.node), bed.leased()) == ({}, {}, [])


def test_check_fails_if_the_interface_is_missing(bed: Bed) -> None:
    added = bed.run("add", delegate=bed.ptp())
    subprocess.run(["ip", "-n", bed.pod, "link", "delete", "eth0"], check=True)
    failed = bed.run("check", delegation=added["delegation"])
    assert failed["error"].startswith("cannot check the delegate network (type ptp): ")


def test_check_of_the_plugin_before_us_accepts_our_result(bed: Bed) -> None:
    """The runtime passes the result of the whole chain to the CHECK of each plugin.

    That of ptp and bridge requires all addresses on its own interface, and all routes, so ours must not be there.
    """
    delegation = bed.run("add", delegate=bed.ptp())["delegation"]
    before = Result.from_json(delegation["result"], "1.0.0")
    ours = before.extended([Interface("in1", "0a:00:00:00:00:07", f"/run/netns/{bed.pod}")])

    def check(result: Result) -> dict[str, Any]:
        return bed.run("check", delegation={**delegation, "result": result.to_json("1.0.0")})

    assert check(ours) == {"said": ""}
    address = IPConfig("192.168.2.100/24", interface=len(before.interfaces))
    assert "192.168.2.100/24" in check(replace(ours, ips=(*ours.ips, address)))["error"]
    assert "10.50.0.0" in check(replace(ours, routes=(*ours.routes, Route("10.50.0.0/16"))))["error"]


def test_del_is_idempotent_and_needs_no_netns_or_result(bed: Bed) -> None:
    added = bed.run("add", delegate=bed.ptp())
    without_result = {**added["delegation"], "result": None}
    for netns in ("", f"/run/netns/{bed.pod}", ""):
        assert bed.run("delete", netns=netns, delegation=without_result) == {"said": ""}
        assert bed.leased() == []


def test_add_fails_if_the_interface_exists(bed: Bed) -> None:
    assert "error" not in bed.run("add", delegate=bed.ptp())
    again = bed.run("add", delegate=bed.ptp())
    assert again["error"].startswith("cannot add the delegate network (type ptp): ")


def test_del_without_a_result_cleans_up_after_a_failed_add(bed: Bed) -> None:
    missing = "/run/netns/no-such-namespace"
    failed = bed.run("add", delegate=bed.ptp(), netns=missing)
    assert failed["error"].startswith("cannot add the delegate network (type ptp): ")
    assert "no such file" in failed["error"]
    config = {"name": "net", "cniVersion": "1.0.0", **bed.ptp()}
    assert bed.run("delete", delegation={"config": config, "result": None}, netns=missing) == {"said": ""}
    assert (bed.interfaces(bed.node), bed.leased()) == ({}, [])


def test_loopback_works_as_the_boot_network_of_2017(bed: Bed) -> None:
    example = json.loads((REPOSITORY / "manifests" / "examples" / "10-ratchet.conf").read_text())
    added = bed.run("add", "", delegate=example["boot_network"], network=example)
    assert added["delegation"]["config"] == {"type": "loopback", "name": "ratchet-demo", "cniVersion": "0.1.0"}
    assert added["delegation"]["result"]["ips"][0]["address"] == "127.0.0.1/8"
    # The result omits the address of lo, which a runtime would otherwise use as the pod IP.
    assert added["result"] == {"cniVersion": "0.1.0", "dns": {}}
    assert bed.interfaces(bed.pod) == {"lo": ["127.0.0.1/8"]}
    assert bed.run("delete", "", delegation=added["delegation"], network=example) == {"said": ""}
    assert bed.interfaces(bed.pod) == {}


@pytest.mark.parametrize("verb", ["gc", "status"])
@pytest.mark.parametrize("own", [{}, {"cniVersion": "1.0.0"}])
def test_gc_and_status_skip_plugins_without_these_verbs(bed: Bed, verb: str, own: dict[str, str]) -> None:
    added = bed.run("add", delegate=bed.ptp())
    network: dict[str, object] = {"cni.dev/valid-attachments": []}
    assert bed.run(verb, "1.1.0", delegate=bed.ptp(**own), network=network) == {"ran": False}
    assert bed.leased() == [added["result"]["ips"][0]["address"].removesuffix("/24")]


def test_errors_have_the_code_and_message_of_the_plugin(bed: Bed) -> None:
    failed = bed.run("add", delegate=bed.ptp(mtu="large"))
    assert failed["error"].startswith("cannot add the delegate network (type ptp): ")
    assert "mtu" in failed["error"]
    assert failed["code"] == 999
