"""`ratchet import` loses nothing in silence, and what it prints can be applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet.cli.conversion import nearest_ifname, nearest_name
from ratchet.cli.interface_aliases import linux_name
from ratchet.cli.main import main
from ratchet.cli.object_rules import name_problem
from ratchet.core.intent.link_parser import LINKS_MOST

Captured = pytest.CaptureFixture[str]
Json = dict[str, Any]


def converted(text: str, folder: Path, capsys: Captured, *options: str) -> tuple[list[Json], list[str]]:
    """Import a file. Returns the links, with `namespace` and `topology`, and the lines of stderr."""
    file = folder / "theirs.yaml"
    file.write_text(text)
    assert main(["import", str(file), *options]) == 0
    out, err = capsys.readouterr()
    links: list[Json] = []
    for one in yaml.safe_load_all(out):
        metadata = one["metadata"]
        assert name_problem(metadata["name"]) == ""
        listed = yaml.safe_load(one["data"]["links"])
        assert len(listed) <= LINKS_MOST
        links += [link | {"topology": metadata["name"], "namespace": metadata.get("namespace")} for link in listed]
    (folder / "ours.yaml").write_text(out)
    main(["validate", str(folder / "ours.yaml")])
    absent = ("there is no such pod", "no pod of the namespace is given")  # pods are not converted
    printed = capsys.readouterr().out.splitlines()
    problems = [line for line in printed if "error:" in line and not any(text in line for text in absent)]
    assert problems == []
    return links, err.splitlines()


def lab(links: str, nodes: str = "{}", name: str = "lab") -> str:
    return f"name: {name}\ntopology:\n  nodes: {nodes}\n  links:\n{links}"


def objects(*topologies: tuple[str, str], namespaces: tuple[str, ...] = ()) -> str:
    """Topology objects of pods with these links."""
    found = []
    for number, (pod, link) in enumerate(topologies):
        namespace = f", namespace: {namespaces[number]}" if namespaces else ""
        found.append(f"kind: Topology\nmetadata: {{name: {pod}{namespace}}}\nspec: {{links: [{link}]}}\n")
    return "---\n".join(found)


# containerlab


@pytest.mark.parametrize(
    ("link", "addresses"),
    [
        ("endpoints: [a:e1, b:e1]\n      ipv4: [10.0.0.1/30, 10.0.0.2/30]", [["10.0.0.1/30"], ["10.0.0.2/30"]]),
        (
            "endpoints: [a:e1, b:e1]\n      ipv4: [null, 10.0.0.2/30]\n      ipv6: [null, 'fd00::2/64']",
            [None, ["10.0.0.2/30", "fd00::2/64"]],
        ),
        (
            "type: VETH\n      endpoints: [{node: a, interface: e1, ipv4: 10.0.0.1/30, ipv6: 'fd00::1/64'}, "
            "{node: b, interface: e1}]",
            [["10.0.0.1/30", "fd00::1/64"], None],
        ),
    ],
    ids=["both ends", "one end, both families", "extended format"],
)
def test_addresses_of_containerlab_are_converted(
    link: str, addresses: object, tmp_path: Path, capsys: Captured
) -> None:
    (found,), _ = converted(lab(f"    - {link}"), tmp_path, capsys)
    assert found["addresses"] == addresses


def test_variables_of_an_endpoint_are_reported(tmp_path: Path, capsys: Captured) -> None:
    ends = "[{node: a, interface: e1, vars: {x: 1}}, {node: b, interface: e1}]"
    _, messages = converted(lab(f"    - {{type: veth, endpoints: {ends}}}"), tmp_path, capsys)
    assert "not converted: topology.links[0].endpoints[0].vars: not supported" in messages


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("{kind: bridge}", "node x of kind bridge is not a pod"),
        ("{kind: ovs-bridge}", "node x of kind ovs-bridge is not a pod"),
        ("{kind: ext-container}", "node x of kind ext-container is not a pod"),
        ("{kind: linux, network-mode: host}", "node x has network-mode host, so it has no network of its own"),
        ("{network-mode: 'container:y'}", "node x has network-mode container:y, so it has no network of its own"),
    ],
)
def test_a_node_that_is_no_pod_is_no_end(node: str, reason: str, tmp_path: Path, capsys: Captured) -> None:
    links = "    - endpoints: [x:e1, a:e1]\n    - endpoints: [a:e1, b:e1]"
    (found,), messages = converted(lab(links, f"{{x: {node}, a: {{}}}}"), tmp_path, capsys)
    assert found["endpoints"] == ["a:e1", "b:e1"]
    assert f"not converted: topology.links[0]: {reason}" in messages


@pytest.mark.parametrize(
    ("link", "cause"),
    [
        ("endpoints: [a:e1, b:e1]\n      mtu: 20", 'invalid MTU "20"'),
        ("endpoints: [a:e1, b:e1]\n      ipv4: [x, 10.0.0.1]", 'invalid address "x"'),
        ("endpoints: [a:e1, a:e2]", "a pod cannot be linked to itself"),
        ("endpoints: [a:e0, b:e1]", "e0 of a is also used by topology.links[0]"),
    ],
)
def test_a_link_that_an_agent_would_reject_is_not_printed(
    link: str, cause: str, tmp_path: Path, capsys: Captured
) -> None:
    links = f"    - endpoints: [a:e0, c:e0]\n    - {link}"
    found, messages = converted(lab(links), tmp_path, capsys)
    assert len(found) == 1
    assert [line for line in messages if line.startswith(f"not converted: topology.links[1]: {cause}")]


def test_names_that_kubernetes_rejects_are_changed_with_a_note(tmp_path: Path, capsys: Captured) -> None:
    links = "    - endpoints: [SRv6:e1, ciena_saos:e1]\n    - endpoints: [srv6:e1, ciena_saos:e2]"
    found, messages = converted(lab(links, name="My Lab"), tmp_path, capsys)
    assert [one["endpoints"] for one in found] == [["srv6:e1", "ciena-saos:e1"], ["srv6-2:e1", "ciena-saos:e2"]]
    assert {one["topology"] for one in found} == {"my-lab"}
    assert [line for line in messages if " is changed to " in line] == [
        'note: pod name "SRv6" is changed to srv6, because Kubernetes rejects it',
        'note: pod name "ciena_saos" is changed to ciena-saos, because Kubernetes rejects it',
        'note: pod name "srv6" is changed to srv6-2, because another node uses srv6',
        'note: name "My Lab" is changed to my-lab, because Kubernetes rejects it',
    ]


@pytest.mark.parametrize("name", ["8000e1", "1.1", "0x1f", "yes", "null", "1e3"])
def test_a_name_that_is_no_text_for_kubectl_is_quoted(name: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "lab.yaml").write_text(lab("    - endpoints: [a:e1, b:e1]", name=f"'{name}'"))
    assert main(["import", str(tmp_path / "lab.yaml")]) == 0
    assert f"name: '{name}'\n" in capsys.readouterr().out


def test_a_given_name_that_kubernetes_rejects_is_an_error(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "lab.yaml").write_text(lab("    - endpoints: [a:e1, b:e1]"))
    assert main(["import", str(tmp_path / "lab.yaml"), "--name", "Foo Bar"]) == 1
    assert "use --name foo-bar" in capsys.readouterr().err


def test_many_links_become_several_topologies(tmp_path: Path, capsys: Captured) -> None:
    links = "\n".join(f"    - endpoints: [a:e{number}, b:e{number}]" for number in range(2 * LINKS_MOST + 1))
    found, _ = converted(lab(links), tmp_path, capsys)
    assert len(found) == 2 * LINKS_MOST + 1
    assert [one["topology"] for one in found[::LINKS_MOST]] == ["lab", "lab-2", "lab-3"]


@pytest.mark.parametrize(
    ("kind", "ifname", "linux"),
    [
        ("cisco_iol", "Ethernet0/1", "eth1"),
        ("cisco_iol", "e1/2", "eth6"),
        ("nokia_srlinux", "ethernet-1/49/2", "e1-49-2"),
        ("nokia_srsim", "1/x2/3/c4/5", "e1-x2-3-c4-5"),
        ("cisco_csr1000v", "GigabitEthernet2", "eth1"),
        ("cisco_c8000v", "Gi3", "eth2"),
        ("cisco_c8000v", "Gi1", "Gi1"),
        ("cisco_xrv9k", "Gi0/0/0/0", "eth1"),
        ("juniper_vmx", "ge-0/0/3", "eth4"),
        ("arista_veos", "Ethernet1/1", "eth1"),
        ("arista_veos", "et1", "et1"),
        ("arista_ceos", "Ethernet1", "eth1"),
        ("ceos", "Et27", "eth27"),
        ("ceos", "Ethernet1/1", "eth1_1"),
        ("ceos", "Ethernet2/1/1", "eth2_1_1"),
        ("ceos", "et1", "et1"),
        ("ceos", "eth1_1", "eth1_1"),
        ("ceos", "Ethernet1/1/1/1", "Ethernet1/1/1/1"),
        ("f5_bigip-ve", "1.2", "eth2"),
        ("ciena_saos", "1", "eth1"),
        ("cisco_asav", "GigabitEthernet0/0", "eth1"),
        ("cisco_ftdv", "Gi0/1", "eth2"),
        ("cisco_xrd_vrouter", "TenGigE0/0/0/1", "eth2"),
        ("juniper_cjunosevolved", "et-0/0/0", "eth4"),
        ("juniper_vjunosevolved", "et-0/0/0", "eth1"),
        ("fortinet_fortigate", "port2", "eth1"),
        ("fortinet_fortigate", "port1", "port1"),
        ("spirent_stc", "port1", "eth1"),
        ("nvidia_cumulusvx", "swp3", "eth3"),
        ("paloalto_panos", "Ethernet1/2", "eth2"),
        ("mikrotik_ros", "ether2", "eth1"),
        ("freebsd", "vtnet1", "eth1"),
        ("openbsd", "vio2", "eth2"),
        ("nokia_sros", "1/1/3", "eth3"),
        ("nokia_sros", "1/1/c4/1", "eth4"),
        ("nokia_sros", "1/1/c4/2", "1/1/c4/2"),
        ("vr-aoscx", "1/1/2", "eth2"),
        ("cisco_xrd", "Gi0-0-0-0", "Gi0-0-0-0"),
        ("linux", "Ethernet0/1", "Ethernet0/1"),
    ],
)
def test_an_interface_alias_of_a_kind_is_the_name_in_linux(kind: str, ifname: str, linux: str) -> None:
    assert linux_name(kind, ifname) == linux


@pytest.mark.parametrize(
    "topology",
    [
        "nodes: {a: {kind: cisco_iol}, b: {}}",
        "defaults: {kind: cisco_iol}\n  nodes: {a: {}, b: {kind: linux}}",
        "groups: {routers: {kind: cisco_iol}}\n  nodes: {a: {group: routers}, b: {}}",
    ],
    ids=["node", "default", "group"],
)
def test_an_interface_alias_is_converted_with_a_note(topology: str, tmp_path: Path, capsys: Captured) -> None:
    text = f"name: lab\ntopology:\n  {topology}\n  links:\n    - endpoints: ['a:Ethernet0/1', b:Eth1]"
    (found,), messages = converted(text, tmp_path, capsys)
    assert found["endpoints"] == ["a:eth1", "b:Eth1"]
    assert "note: interface Ethernet0/1 of a is eth1 in Linux" in messages


# meshnet-cni and kube-dtn


def test_the_second_half_completes_a_link(tmp_path: Path, capsys: Captured) -> None:
    text = objects(
        ("r1", "{uid: 1, peer_pod: r2, local_intf: e1, peer_intf: e2, local_ip: 10.0.0.1/24}"),
        ("r2", "{uid: 1, peer_pod: r1, local_intf: e2, peer_intf: e1, local_ip: 10.0.0.2/24}"),
    )
    (found,), messages = converted(text, tmp_path, capsys)
    assert (found["endpoints"], found["addresses"]) == (["r1:e1", "r2:e2"], ["10.0.0.1/24", "10.0.0.2/24"])
    assert messages == []


def test_halves_that_differ_are_reported(tmp_path: Path, capsys: Captured) -> None:
    text = objects(
        ("r1", "{uid: 1, peer_pod: r2, local_intf: e1, peer_intf: e2, peer_ip: 10.0.0.2/24}"),
        ("r2", "{uid: 1, peer_pod: r1, local_intf: e2, peer_intf: e1, local_ip: 10.0.0.9/24}"),
        ("r3", "{uid: 2, peer_pod: r2, local_intf: e1, peer_intf: e2}"),
    )
    (found,), messages = converted(text, tmp_path, capsys)
    assert found["addresses"] == [None, "10.0.0.2/24"]
    assert messages == [
        "not converted: Topology r2: links[0]: the address of e2 of r2 is 10.0.0.9/24, "
        "and 10.0.0.2/24 in Topology r1: links[0]",
        "not converted: Topology r3: links[0]: e2 of r2 is also used by Topology r1: links[0]",
    ]


def test_topologies_of_two_namespaces_stay_apart(tmp_path: Path, capsys: Captured) -> None:
    link = "{uid: 1, peer_pod: r2, local_intf: e1, peer_intf: e1}"
    text = objects(("r1", link), ("r1", link), namespaces=("one", "two"))
    found, _ = converted(text, tmp_path, capsys)
    assert [(one["namespace"], one["endpoints"]) for one in found] == [
        ("one", ["r1:e1", "r2:e1"]),
        ("two", ["r1:e1", "r2:e1"]),
    ]


def test_fields_of_kube_dtn_are_converted_or_reported(tmp_path: Path, capsys: Captured) -> None:
    link = (
        "{uid: 1, peer_pod: r2, local_intf: e1, peer_intf: e1, local_mac: '02:00:00:00:00:01', "
        "properties: {latency: 10ms}}"
    )
    (found,), messages = converted(objects(("r1", link)), tmp_path, capsys)
    assert found["mac"] == ["02:00:00:00:00:01", None]
    assert messages == ["not converted: Topology r1: links[0].properties: not supported"]


# Nearest names


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("My Lab", "my-lab"), ("1.1", "1.1"), ("True", "true"), ("__", "imported"), ("a" * 80, "a" * 63), ("-x-", "x")],
)
def test_the_nearest_name_is_valid(name: str, nearest: str) -> None:
    assert nearest_name(name) == nearest
    assert name_problem(nearest) == ""


@pytest.mark.parametrize(
    ("ifname", "nearest"),
    [
        ("Gi0/0/0", "Gi0-0-0"),
        ("Ethernet1/1", "Ethernet1-1"),
        ("GigabitEthernet0/0/0/1", "GigabitEthernet"),
        ("1/1/1", ""),
        ("-lo", ""),
        ("%d", "d"),
    ],
)
def test_the_nearest_interface_name_is_valid_or_none(ifname: str, nearest: str) -> None:
    assert nearest_ifname(ifname) == nearest
