"""`ratchet import`: containerlab and meshnet files become topologies, and the rest is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ratchet.cli.main import main
from ratchet.core.intent import wanted_links
from ratchet.core.model import Link
from ratchet.core.pod import Topology

Captured = pytest.CaptureFixture[str]

CONTAINERLAB = """\
name: lab
topology:
  nodes:
    srl: {kind: nokia_srlinux, image: ghcr.io/nokia/srlinux}
  links:
    - endpoints: ["a:eth1", "b:eth1"]
    - endpoints: ["b:eth2", "c:eth1"]
      mtu: 1400
      vars: {cost: 10}
    - type: veth
      endpoints:
        - {node: c, interface: eth2, mac: 02:00:00:00:00:01}
        - {node: a, interface: eth2}
    - endpoints: ["a:eth3", "host:veth0"]
    - endpoints: ["a:ethernet-1/1", "b:eth9"]
    - endpoints: ["a:eth0", "b:eth8"]
    - endpoints: ["a:eth4"]
    - {type: macvlan, endpoint: {node: a, interface: eth5}}
"""
MESHNET = """\
apiVersion: v1
kind: List
items:
- kind: Topology
  metadata: {name: r1}
  spec:
    links:
    - {uid: 1, peer_pod: r2, local_intf: eth1, local_ip: 12.12.12.1/24, peer_intf: eth1, peer_ip: 12.12.12.2/24}
    - {uid: 2, peer_pod: localhost, local_intf: eth2, peer_intf: eth0}
- kind: Topology
  metadata: {name: r2}
  spec:
    links:
    - {uid: 1, peer_pod: r1, local_intf: eth1, local_ip: 12.12.12.2/24, peer_intf: eth1, peer_ip: 12.12.12.1/24}
    - {uid: 3, peer_pod: r3, local_intf: eth2, peer_intf: eth1}
"""
DIFFERENCES = (
    "note: containerlab turns TX checksum offload off and sets MTU 9500 on all links; "
    "set offloads: off and mtu where a node needs them"
)


def imported(text: str, folder: Path, capsys: Captured, *options: str) -> tuple[str, list[Link], list[str]]:
    """Import a file, and return the name and the links of its topology, and the lines of stderr."""
    file = folder / "theirs.yaml"
    file.write_text(text)
    assert main(["import", str(file), *options]) == 0
    out, err = capsys.readouterr()
    config_map = yaml.safe_load(out)
    assert config_map["metadata"]["labels"] == {"ratchet.topology": "true"}
    wanted = wanted_links([], topologies=[Topology("default", "x", config_map["data"]["links"])])
    assert wanted.refused == {}
    assert len(wanted.links) == config_map["data"]["links"].count("endpoints")
    return config_map["metadata"]["name"], [one.link for one in wanted.links], err.splitlines()


def test_containerlab_links_are_converted_and_the_rest_is_reported(tmp_path: Path, capsys: Captured) -> None:
    name, (first, third, second), messages = imported(CONTAINERLAB, tmp_path, capsys)
    assert name == "lab"
    assert [one.name for one in (first, second, third)] == [
        "default.a.eth1.b.eth1",
        "default.b.eth2.c.eth1",
        "default.a.eth2.c.eth2",
    ]
    assert second.pair.properties.mtu == 1400
    assert (third.primary.name, third.pair.name) == ("a", "c")
    assert (third.primary.properties.mac, third.pair.properties.mac) == (None, "02:00:00:00:00:01")
    assert [line.removeprefix("not converted: ") for line in messages] == [
        "topology.nodes: create a pod for each node; kinds, images and settings are not converted",
        "topology.links[1].vars: not supported",
        "topology.links[3]: host is not a pod",
        'topology.links[4]: invalid interface name "ethernet-1/1": expected A-Z a-z, then up to 14 of these, 0-9 _ . -'
        "; the nearest valid name is ethernet-1-1",
        "topology.links[5]: interface name eth0 is reserved for the runtime",
        "topology.links[6]: expected two endpoints, each node:interface",
        "topology.links[7]: links of type macvlan are not supported",
        DIFFERENCES,
    ]


def test_each_meshnet_link_is_converted_once(tmp_path: Path, capsys: Captured) -> None:
    name, (first, second), messages = imported(MESHNET, tmp_path, capsys, "--name", "routers")
    assert name == "routers"
    assert (first.name, second.name) == ("default.r1.eth1.r2.eth1", "default.r2.eth2.r3.eth1")
    assert [str(end.addresses[0]) for end in (first.primary, first.pair)] == ["12.12.12.1/24", "12.12.12.2/24"]
    assert second.primary.addresses == ()
    assert messages == ["not converted: Topology r1: links[1]: links to the node's own network are not supported"]


def test_the_topology_is_written_as_readable_yaml(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("name: lab\ntopology:\n  links:\n  - endpoints: [a:eth1, b:eth1]\n")
    assert main(["import", str(file)]) == 0
    assert capsys.readouterr().out == (
        "apiVersion: v1\n"
        "kind: ConfigMap\n"
        "metadata:\n"
        "  name: lab\n"
        "  labels:\n"
        "    ratchet.topology: 'true'\n"
        "data:\n"
        "  links: |\n"
        "    - {endpoints: ['a:eth1', 'b:eth1']}\n"
    )


def test_links_with_values_of_another_type_are_reported(tmp_path: Path, capsys: Captured) -> None:
    text = MESHNET.replace("peer_pod: r2", "peer_pod: 12").replace("peer_pod: r1", "peer_pod: null")
    text += """\
    - {uid: 4, peer_pod: r4, local_intf: 1, peer_intf: eth1}
    - just text
"""
    _, (link,), messages = imported(text, tmp_path, capsys)
    assert link.name == "default.r2.eth2.r3.eth1"
    assert [line.removeprefix("not converted: ") for line in messages] == [
        "line 8: items[0].spec.links[0].peer_pod: expected text, found a number (12)",
        "Topology r1: links[1]: links to the node's own network are not supported",
        "line 14: items[1].spec.links[0].peer_pod: expected text, found nothing",
        "line 16: items[1].spec.links[2].local_intf: expected text, found a number (1)",
        "line 17: items[1].spec.links[3]: expected a mapping, found text",
    ]


def test_keys_and_values_of_containerlab_are_read_as_written(tmp_path: Path, capsys: Captured) -> None:
    link = "{endpoints: [{node: 1, interface: eth1, mac: 12:34:56:12:34:56}, 2:eth1], 7: x, true: y}"
    _, (found,), messages = imported(f"topology: {{links: [{link}]}}", tmp_path, capsys)
    assert found.name == "default.1.eth1.2.eth1"
    assert found.primary.properties.mac == "12:34:56:12:34:56"
    assert messages[:-1] == [f"not converted: topology.links[0].{key}: not supported" for key in ("7", "true")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("topology: [x]", "line 1: topology: expected a mapping, found a list"),
        ("topology: {links: x}", "line 1: topology.links: expected a list, found text"),
        ("topology:\n  links: []\nname: [x]", "line 3: name: expected text, found a list"),
        ("kind: Topology\nmetadata: {name: 7}\nspec: {}", "line 2: metadata.name: expected text, found a number (7)"),
        ("kind: Topology\nmetadata: x\nspec: {}", "line 2: metadata: expected a mapping, found text"),
        ("kind: Topology\nmetadata: {name: a}\nspec: {links: {}}", "line 3: spec.links: expected a list, found a m"),
    ],
)
def test_a_file_with_values_of_another_type_is_an_error(
    text: str, expected: str, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    assert main(["import", str(file)]) == 1
    assert capsys.readouterr().err.startswith(f"ratchet: cannot read {file}: {expected}")


@pytest.mark.parametrize("text", ["a: b", "- 1", "name: x\n---\nname: y", ""])
def test_a_file_of_another_format_is_rejected(text: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    assert main(["import", str(file)]) == 1
    assert f"cannot import {file}: it has " in capsys.readouterr().err


def test_a_file_without_a_convertible_link_fails(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("topology: {links: [{endpoints: ['a:eth0', 'b:eth1']}]}")
    assert main(["import", str(file)]) == 1
