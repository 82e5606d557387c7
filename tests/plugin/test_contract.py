"""The CNI 1.1 contract of the installed plugin: variables, stdin, exit status, codes and stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ratchet.core.kinds import Wiring
from ratchet.core.model import State
from ratchet.dev.fake_kubelet import CniResponse, Kubelet, Sandbox
from ratchet.dev.hosts import command_in, ip, netns_path
from ratchet.install import install
from tests.support.cluster import CHAINED, LINK, PRIMARY, Cluster, sent_by
from tests.support.faults import Gate, Rule, Sent, answering, dropping
from tests.support.forking import fork_plugin

CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "ratchet"}
LATEST = {**CHAINED, "cniVersion": "1.1.0"}
CALL = {
    "CNI_CONTAINERID": "abc",
    "CNI_NETNS": "/run/netns/ratchet-has-no-such-namespace",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/usr/lib/cni",
}
SUPPORTED = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
VALID = "cni.dev/valid-attachments"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed plugin without a cluster, for calls that it rejects before it needs the API."""
    folder = tmp_path_factory.mktemp("installed")
    install(folder / "bin", state_dir=folder / "state")
    return folder / "bin" / "ratchet"


def execute(plugin: Path, stdin: object = CONFIG, **variables: str | None) -> CniResponse:
    """Call the plugin with only these CNI variables. A `stdin` that is not a string is encoded as JSON."""
    text = stdin if isinstance(stdin, str) else json.dumps(stdin)
    process = fork_plugin(plugin, None, environment(variables), text)
    stdout, stderr = process.communicate(timeout=30)
    return CniResponse(process.wait(), stdout, stderr)


def environment(variables: dict[str, str | None]) -> dict[str, str]:
    """This process's environment with only these CNI variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CNI_")}
    return inherited | {name: value for name, value in variables.items() if value is not None}


def assert_refused(answer: CniResponse, code: int, *words: str) -> None:
    """Assert a CNI error with this code, whose message has all `words`, and no traceback on stderr."""
    assert answer.status != 0, answer
    error = answer.json  # fails unless stdout is exactly one JSON document
    assert set(error) == {"cniVersion", "code", "msg", "details"}
    assert error["cniVersion"] in SUPPORTED
    assert error["code"] == code, answer
    for word in words:
        assert word in error["msg"], answer
    assert "Traceback" not in answer.stderr


def assert_silent(answer: CniResponse) -> None:
    assert (answer.status, answer.stdout) == (0, ""), answer


def journaled(node: Kubelet) -> set[str]:
    """Return the container IDs in the journal of a node."""
    return {path.name.partition("+")[0] for path in node.state_dir.glob("sandboxes/*")}


def gc_config(*valid: Sandbox) -> dict[str, Any]:
    """Build the configuration of a GC call that lists these sandboxes as the only valid attachments."""
    return {**LATEST, VALID: [{"containerID": one.container_id, "ifname": "eth0"} for one in valid]}


# VERSION


@pytest.mark.parametrize(
    ("stdin", "echoed"),
    [
        ("", "1.1.0"),
        ({"cniVersion": "0.4.0"}, "0.4.0"),
        ({"cniVersion": "1.9.0"}, "1.9.0"),
        ("no JSON", "1.1.0"),
    ],
    ids=["with nothing on stdin", "of 0.4.0", "of a later one", "with nonsense on stdin"],
)
def test_version_needs_only_cni_command(plugin: Path, stdin: object, echoed: str) -> None:
    text = stdin if isinstance(stdin, str) else json.dumps(stdin)
    environ = environment({"CNI_COMMAND": "VERSION"})
    answer = subprocess.run([plugin], input=text, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 0
    assert json.loads(answer.stdout) == {"cniVersion": echoed, "supportedVersions": SUPPORTED}


# Invalid calls


@pytest.mark.parametrize(
    ("command", "changes", "words"),
    [
        (None, {}, ["CNI_COMMAND"]),
        ("", {}, ["CNI_COMMAND"]),
        ("FROB", {}, ["CNI_COMMAND", "FROB"]),
        ("add", {}, ["CNI_COMMAND"]),
        ("ADD", {"CNI_CONTAINERID": None}, ["CNI_CONTAINERID"]),
        ("ADD", {"CNI_NETNS": None}, ["CNI_NETNS"]),
        ("ADD", {"CNI_IFNAME": None}, ["CNI_IFNAME"]),
        ("ADD", {"CNI_CONTAINERID": "", "CNI_IFNAME": None}, ["CNI_CONTAINERID", "CNI_IFNAME"]),
        ("ADD", {"CNI_NETNS": "run/netns/x"}, ["CNI_NETNS"]),
        ("ADD", {"CNI_IFNAME": "eth0/1"}, ["CNI_IFNAME"]),
        ("ADD", {"CNI_IFNAME": "e" * 16}, ["CNI_IFNAME"]),
        ("ADD", {"CNI_ARGS": "K8S_POD_NAME"}, ["CNI_ARGS"]),
        ("ADD", {"CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=../../secrets/x"}, ["CNI_ARGS", "K8S_POD_NAME"]),
        ("CHECK", {"CNI_NETNS": None}, ["CNI_NETNS"]),
        ("DEL", {"CNI_CONTAINERID": None}, ["CNI_CONTAINERID"]),
        ("DEL", {"CNI_IFNAME": None}, ["CNI_IFNAME"]),
        ("GC", {"CNI_PATH": None}, ["CNI_PATH"]),
    ],
)
def test_the_error_names_a_missing_or_invalid_variable(
    plugin: Path, command: str | None, changes: dict[str, str | None], words: list[str]
) -> None:
    assert_refused(execute(plugin, CNI_COMMAND=command, **{**CALL, **changes}), 4, *words)


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
def test_hostile_container_ids_never_become_file_names(plugin: Path, command: str) -> None:
    for hostile in ("..", ".hidden", "-rf", "../../../etc/cron.d/x", "a/b", "a\nb", "a b", "é", "x" * 201):
        answer = execute(plugin, CNI_COMMAND=command, **{**CALL, "CNI_CONTAINERID": hostile})
        assert_refused(answer, 4, "CNI_CONTAINERID")
    assert [path.name for path in plugin.parent.parent.iterdir()] == ["bin"]


@pytest.mark.parametrize("stdin", ["", " ", "{", "nonsense", "[]", "7", '{"name": "net"} {}'])
def test_stdin_that_is_not_a_json_object_is_code_6(plugin: Path, stdin: str) -> None:
    assert_refused(execute(plugin, stdin, CNI_COMMAND="ADD", **CALL), 6)


@pytest.mark.parametrize("name", [None, "", "../net", "-net", "a b", "é", 7])
def test_a_missing_or_invalid_network_name_is_code_7(plugin: Path, name: object) -> None:
    assert_refused(execute(plugin, {**CONFIG, "name": name}, CNI_COMMAND="ADD", **CALL), 7, '"name"')


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("cniVersion", {"cniVersion": 1}),
        ("type", {"type": None}),
        ("type", {"type": "../ratchet"}),
        ("delegate", {"delegate": "flannel"}),
        ("delegate.type", {"delegate": {}}),
        ("delegate.type", {"delegate": {"type": "../../bin/sh"}}),
        ("delegate.type", {"delegate": {"type": "ratchet"}}),
        ("boot_network", {"boot_network": []}),
        ("parent_interface", {"parent_interface": 0}),
        ("parent_interface", {"parent_interface": "e" * 16}),
        ("parent_address", {"parent_address": "192.168.1"}),
        ("parent_address", {"parent_address": 192}),
        ("kubeconfig", {"kubeconfig": "relative"}),
        ("namespace", {"namespace": "Not A Name"}),
        ("wait", {"wait": "60"}),
        ("wait", {"wait": True}),
        ("wait", {"wait": -1}),
        ("vxlan_port", {"vxlan_port": "4789"}),
        ("vxlan_port", {"vxlan_port": 0}),
        ("vni_range", {"vni_range": [11]}),
        ("vni_range", {"vni_range": [0, 11]}),
        ("vni_range", {"vni_range": [12, 11]}),
        ("vni_range", {"vni_range": [11, 1 << 24]}),
        ("log_file", {"log_file": 1}),
        ("log_level", {"log_level": "loud"}),
        ("state_dir", {"state_dir": "state"}),
        ("prevResult", {"prevResult": 1}),
        ("prevResult", {"prevResult": {"ips": [{"address": "10.0.0.1/24", "interface": 0}]}}),
        (VALID, {VALID: "none"}),
        (f"{VALID}[0]", {VALID: ["abc"]}),
    ],
)
def test_the_error_names_a_key_with_an_invalid_value(plugin: Path, key: str, changes: dict[str, object]) -> None:
    assert_refused(execute(plugin, {**CONFIG, **changes}, CNI_COMMAND="ADD", **CALL), 7, f'"{key}"')


@pytest.mark.parametrize("version", ["9.9.9", "1.0", "latest", "0.3.2"])
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_an_unsupported_version_is_code_1(plugin: Path, command: str, version: str) -> None:
    answer = execute(plugin, {**CONFIG, "cniVersion": version}, CNI_COMMAND=command, **CALL)
    assert_refused(answer, 1, version)
    assert "1.1.0" in answer.json["details"]


@pytest.mark.parametrize(
    ("command", "version", "since"),
    [
        ("CHECK", "", "0.4.0"),
        ("CHECK", "0.3.1", "0.4.0"),
        ("GC", "1.0.0", "1.1.0"),
        ("STATUS", "1.0.0", "1.1.0"),
    ],
)
def test_a_command_that_the_version_lacks_is_code_1(plugin: Path, command: str, version: str, since: str) -> None:
    assert_refused(
        execute(plugin, {**CONFIG, "cniVersion": version}, CNI_COMMAND=command, **CALL), 1, command, f"{since}"
    )


def test_a_path_that_is_not_a_network_namespace_is_code_4(plugin: Path, tmp_path: Path) -> None:
    file = tmp_path / "netns"
    file.write_text("not a namespace")
    for path in (CALL["CNI_NETNS"], str(file), str(tmp_path), "/proc/self/ns/mnt", "/dev/null"):
        answer = execute(plugin, CNI_COMMAND="ADD", **{**CALL, "CNI_NETNS": path})
        assert_refused(answer, 4, "CNI_NETNS", path)
    assert file.read_text() == "not a namespace"


def test_an_error_has_the_cni_version_of_the_call(plugin: Path) -> None:
    for version, answered in (("", "0.1.0"), ("0.3.1", "0.3.1"), ("1.0.0", "1.0.0"), ("9.9.9", "1.1.0")):
        answer = execute(plugin, {**CONFIG, "cniVersion": version, "wait": "x"}, CNI_COMMAND="ADD", **CALL)
        assert answer.json["cniVersion"] == answered


def test_the_network_namespace_of_the_node_is_code_8_and_changes_nothing(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    own = netns_path(cluster.a.host.netns)
    for command in ("ADD", "CHECK"):
        answer = cluster.a.call(command, primary, config={**CHAINED, "prevResult": {}}, CNI_NETNS=own)
        assert_refused(answer, 8, own)
    assert_silent(cluster.a.call("DEL", primary, CNI_NETNS=own))
    assert cluster.writes() == []
    cluster.assert_nothing_left()


# ADD


@pytest.mark.parametrize("versions", [("0.3.1", "0.4.0"), ("1.0.0", "1.1.0")], ids=" and ".join)
def test_the_add_result_has_the_cni_version_of_the_configuration(cluster: Cluster, versions: tuple[str, str]) -> None:
    """Chain Ratchet behind another plugin, whose result comes first, in the same version."""
    addresses = {"ratchet.local_ip": "10.4.4.1/30,fd00:9::1/126", "ratchet.pair_ip": "10.4.4.2/30,fd00:9::2/126"}
    primary = cluster.pod("primary-pod", PRIMARY, cluster.a, **addresses)
    pair = cluster.pair(cluster.a)
    configs = [{**CHAINED, "cniVersion": version, "prevResult": bridge_result(version)} for version in versions]
    adding = cluster.start("ADD", cluster.a, pair, config=configs[1])
    results = [cluster.a.add(primary, config=configs[0]).json, cluster.end(adding).json]
    for version, ifname, result in zip(versions, ("in1", "in2"), results, strict=True):
        assert result["cniVersion"] == version
        eth0, own = result["interfaces"]
        assert eth0 == bridge_result(version)["interfaces"][0]
        assert own["name"] == ifname
        assert own.get("mtu") == (1500 if version == "1.1.0" else None)
        assert result["ips"] == bridge_result(version)["ips"]
        assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]


def bridge_result(version: str) -> dict[str, Any]:
    """Build the result of the previous plugin in the chain, in the format of `version`."""
    family = {"version": "4"} if version < "1.0.0" else {}
    details = {"mtu": 1400, "socketPath": "/run/vhost/1", "pciID": "0000:00:1f.6"} if version == "1.1.0" else {}
    return {
        "cniVersion": version,
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/x", **details}],
        "ips": [{**family, "address": "10.1.0.5/16", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
        "dns": {},
    }


def test_add_without_a_version_returns_a_result_of_version_0_1_0(cluster: Cluster) -> None:
    unversioned = {key: value for key, value in CHAINED.items() if key != "cniVersion"}
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.a)
    adding = cluster.start("ADD", cluster.a, pair, config=unversioned)
    answer = cluster.a.add(primary, config=unversioned)
    assert cluster.end(adding).status == 0
    assert answer.json == {"cniVersion": "0.1.0", "dns": {}}


@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_add_rejects_an_existing_foreign_interface(cluster: Cluster, node_of_pair: str) -> None:
    """Put a foreign interface at the link's name. ADD leaves it unchanged and rolls back its own work."""
    node = cluster.a if node_of_pair == "a" else cluster.b
    primary, pair = cluster.primary(cluster.a), cluster.pair(node)
    ip(*f"-n {primary.netns} link add in1 mtu 1234 type bridge".split())
    foreign = cluster.show(primary, "in1")
    joined = cluster.start("ADD", node, pair, config={**LATEST, "wait": 8})
    cluster.wait_until(State.PENDING)
    answer = cluster.a.add(primary)
    assert_refused(answer, 102, "in1", primary.path, "not Ratchet's")
    assert cluster.show(primary, "in1") == foreign
    assert primary.container_id not in journaled(cluster.a)
    # On one node the pair's ADD may find the foreign interface too, and then waits until it times out. Across nodes the
    # pair's ADD may have created its own end while the primary was joined.
    ended = cluster.end(joined)
    assert ended.status == 0 or ended.json["code"] == 11
    assert node_of_pair == "b" or ended.status == 1
    assert_silent(cluster.a.delete(primary))
    assert_silent(node.delete(pair))
    cluster.assert_nothing_left()


def test_add_names_the_quota_that_denies_the_record(cluster: Cluster) -> None:
    """Deny the record's creation once. The runtime's next ADD succeeds, and the first one leaves nothing."""
    exceeded = 'configmaps "x" is forbidden: exceeded quota: small, requested: count/configmaps=1, used: 5, limited: 5'
    creation = sent_by(cluster.a, "POST", path="/configmaps")
    cluster.faults.add(Rule(creation, before=answering(403, "Forbidden", exceeded)))
    primary = cluster.primary(cluster.a)
    answer = cluster.a.add(primary)
    assert_refused(answer, 100, "exceeded quota: small")
    assert "ResourceQuota small" in answer.json["details"]
    assert cluster.interfaces(primary) == []
    cluster.assert_nothing_left()


@pytest.mark.daemonless
def test_an_unusable_state_dir_fails_add_but_not_del_and_gc(cluster: Cluster, tmp_path: Path) -> None:
    """Use a file as `state_dir`. ADD creates nothing that DEL could not find; DEL and GC still succeed."""
    file = tmp_path / "state"
    file.write_text("in the way")
    unusable = {**LATEST, "state_dir": str(file)}
    primary = cluster.primary(cluster.a)
    assert_refused(cluster.a.add(primary, config=unusable), 100, "cannot write", str(file))
    assert cluster.interfaces(primary) == []
    assert_silent(cluster.a.call("DEL", primary, config=unusable))
    assert_silent(cluster.a.call("GC", config={**unusable, VALID: []}))
    assert file.read_text() == "in the way"
    cluster.assert_nothing_left()


@pytest.mark.executed
@pytest.mark.daemonless
def test_sigterm_fails_a_waiting_add_and_rolls_it_back(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    adding = cluster.start("ADD", cluster.a, primary)
    cluster.wait_until(State.PRIMARY_READY)
    adding.send_signal(signal.SIGTERM)
    assert_refused(cluster.end(adding, seconds=20), 11, "SIGTERM")
    assert cluster.interfaces(primary) == []
    cluster.assert_nothing_left()


def test_add_leaves_no_process_running(cluster: Cluster) -> None:
    """Look for processes in the namespaces of the node and the pods."""
    sandboxes = cluster.linked_pair(cluster.a)
    agents = "".join(f"{agent.pid}\n" for name, agent in cluster.bed.agents.items() if name == "a")
    assert ip("netns", "pids", cluster.a.host.netns) == agents
    for sandbox in sandboxes:
        assert ip("netns", "pids", sandbox.netns) == ""


# DEL


def test_del_succeeds_without_an_add_a_namespace_or_a_result(cluster: Cluster) -> None:
    never_added = cluster.primary(cluster.a)
    for changes in ({}, {"CNI_NETNS": ""}, {"CNI_NETNS": None}, {"CNI_NETNS": "/run/netns/gone"}, {"CNI_ARGS": ""}):
        assert_silent(cluster.a.call("DEL", never_added, **changes))
    broken = {**CHAINED, "prevResult": {"ips": [{"address": "nowhere", "interface": 9}]}}
    assert_silent(cluster.a.call("DEL", never_added, config=broken))
    cluster.assert_nothing_left()


# DEL after the network was renamed


RENAMED = {**CHAINED, "name": "renamed"}


def test_del_under_a_new_network_name_removes_the_links_of_the_old_name(cluster: Cluster) -> None:
    """Rename the network while pods run. CHECK fails, because no ADD is recorded under the new name."""
    primary, pair = cluster.linked_pair()
    assert_refused(cluster.a.call("CHECK", primary, config=RENAMED), 104, "no ADD is on record here")
    assert_silent(cluster.a.call("GC", config={**gc_config(), "name": "renamed"}))
    assert cluster.interfaces(primary) == ["in1"]
    assert journaled(cluster.a) == {primary.container_id}
    for _ in range(2):
        assert_silent(cluster.a.call("DEL", primary, config=RENAMED))
        assert cluster.interfaces(primary) == []
        assert journaled(cluster.a) == set()
    assert cluster.bed.links()[LINK].primary.sandbox is None
    assert_silent(cluster.b.call("DEL", pair, config=RENAMED))
    cluster.forget_pods(primary, pair)
    cluster.assert_nothing_left()


def test_del_under_a_new_network_name_ends_a_waiting_add(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    adding = cluster.start("ADD", cluster.a, primary)
    cluster.wait_until(State.PRIMARY_READY)
    assert_silent(cluster.a.call("DEL", primary, config=RENAMED))
    assert cluster.end(adding).json["code"] == 11
    assert cluster.interfaces(primary) == []
    cluster.forget_pods(primary)
    cluster.assert_nothing_left()


@pytest.mark.daemonless  # an agent writes the journal entry of an ADD before any request to the API
def test_del_under_a_new_network_name_ends_an_add_without_a_journal_entry(cluster: Cluster) -> None:
    primary, gate = cluster.primary(cluster.a), Gate()
    cluster.faults.add(Rule(from_node_a(cluster), before=gate))
    adding = cluster.start("ADD", cluster.a, primary)
    assert gate.reached.wait(20)
    assert_silent(cluster.a.call("DEL", primary, config=RENAMED))
    gate.opened.set()
    assert cluster.end(adding).json["code"] == 11
    assert cluster.interfaces(primary) == []
    cluster.forget_pods(primary)
    cluster.assert_nothing_left()


# CHECK


def test_check_passes_right_after_add(cluster: Cluster) -> None:
    """Check pods without links, both pods of a link, and a pod whose peer has been deleted."""
    alone = cluster.pod("alone", {"ratchet": "true"}, cluster.a)
    plain = cluster.pod("plain", {}, cluster.a)
    for sandbox, version in ((alone, "0.4.0"), (plain, "1.1.0")):
        config = {**CHAINED, "cniVersion": version}
        assert cluster.a.add(sandbox, config=config).status == 0
        assert_silent(cluster.a.call("CHECK", sandbox, config=config))
    primary, pair = cluster.linked_pair()
    assert_silent(cluster.a.call("CHECK", primary))
    assert_silent(cluster.b.call("CHECK", pair))
    assert_silent(cluster.b.delete(pair))
    assert cluster.state() is State.PRIMARY_READY
    assert_silent(cluster.a.call("CHECK", primary))


def without_dad_state(shown: dict[str, Any]) -> dict[str, Any]:
    """Drop the `tentative` flags: duplicate address detection (DAD) takes a second, and is no difference."""
    addresses = [{key: value for key, value in one.items() if key != "tentative"} for one in shown["addr_info"]]
    return {**shown, "addr_info": addresses}


def test_check_names_each_difference_and_changes_nothing(cluster: Cluster) -> None:
    primary, _ = cluster.linked_pair()
    damages = [
        ("link set in1 mtu 1280", "in1 has MTU 1280, wanted 1450", "link set in1 mtu 1450"),
        ("addr del 192.168.2.100/24 dev in1", "in1 lacks 192.168.2.100/24", "addr add 192.168.2.100/24 dev in1"),
    ]
    with cluster.lock_link(cluster.a):
        for damage, difference, mend in damages:
            ip("-n", primary.netns, *damage.split())
            damaged = without_dad_state(cluster.show(primary, "in1"))
            assert_refused(cluster.a.call("CHECK", primary), 104, LINK, difference)
            assert without_dad_state(cluster.show(primary, "in1")) == damaged
            ip("-n", primary.netns, *mend.split())
        assert_silent(cluster.a.call("CHECK", primary))
        ip("-n", primary.netns, "link", "del", "in1")
        assert_refused(cluster.a.call("CHECK", primary), 104, LINK, "in1 is not there")
        ip(*f"-n {primary.netns} link add in1 type bridge".split())
        assert_refused(cluster.a.call("CHECK", primary), 104, LINK, "in1 was not made by ratchet")


@pytest.mark.parametrize("wiring", Wiring)
@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_check_accepts_an_interface_that_its_pod_has_set_down(
    cluster: Cluster, node_of_pair: str, wiring: Wiring
) -> None:
    """Also one with an IPv6 address, which the kernel removes, and the far end on the same node.

    Nothing lowers the carrier in panel wiring: there is no agent, or it waits for the lock. An interface that was never
    brought up is a fault.
    """
    node = cluster.a if node_of_pair == "a" else cluster.b
    ends = {"peer": "pair-pod", "ifname": "in1", "peer_ifname": "in2", "addresses": ["fd00::1/64", "fd00::2/64"]}
    link = {**ends, "wiring": wiring}
    primary = cluster.pod("primary-pod", {"ratchet": "true"}, cluster.a, **{"ratchet.links": json.dumps([link])})
    pair = cluster.pod("pair-pod", {"ratchet": "true"}, node)
    cluster.add_all((cluster.a, primary), (node, pair))
    with cluster.lock_link(cluster.a):
        for sandbox, ifname in ((pair, "in2"), (primary, "in1")):
            ip("-n", sandbox.netns, "link", "set", ifname, "down")
            assert_silent(cluster.a.call("CHECK", primary))
        assert "UP" not in cluster.show(primary, "in1")["flags"]
        ip("-n", primary.netns, "link", "set", "in1", "alias", "")
        assert_refused(cluster.a.call("CHECK", primary), 104, LINK, "in1 is down")


def test_check_detects_a_replaced_peer(cluster: Cluster) -> None:
    """Replace the vEth's far end by another interface of its name, then the sandbox by a newer one."""
    primary, pair = cluster.linked_pair(cluster.a)
    with cluster.lock_link(cluster.a):
        for command in ("link set in2 down", "link set in2 name was2", "link add in2 type bridge"):
            ip("-n", pair.netns, *command.split())
        assert_refused(cluster.a.call("CHECK", primary), 104, LINK, "in1 leads to another interface", "in2")
        ip("-n", pair.netns, "link", "del", "in2")
    newer = cluster.sandbox(cluster.a, primary.pod)
    assert cluster.a.add(newer).status == 0
    assert_silent(cluster.a.call("CHECK", newer))
    assert_refused(cluster.a.call("CHECK", primary), 104, LINK, "no longer holds this sandbox")


def test_check_fails_without_an_add(cluster: Cluster) -> None:
    never_added = cluster.primary(cluster.a)
    assert_refused(cluster.a.call("CHECK", never_added), 7, "prevResult")
    config = {**CHAINED, "prevResult": {"cniVersion": "1.0.0"}}
    assert_refused(cluster.a.call("CHECK", never_added, config=config), 104, never_added.container_id)


# GC


def test_gc_removes_attachments_that_the_runtime_does_not_list(cluster: Cluster) -> None:
    """Collect one network on one node. A missing list removes nothing, an empty list everything."""
    primary, pair = cluster.linked_pair()
    kept, others = (cluster.pod(name, {}, cluster.a) for name in ("kept", "others"))
    assert cluster.a.add(kept).status == 0
    assert cluster.a.add(others, config={**CHAINED, "name": "other-net"}).status == 0
    everything = {primary.container_id, kept.container_id, others.container_id}
    for config in (LATEST, {**LATEST, VALID: None}, gc_config(primary, kept)):
        assert_silent(cluster.a.call("GC", config=config))
        assert journaled(cluster.a) == everything
    assert cluster.pings(primary, "192.168.2.101")

    assert_silent(cluster.a.call("GC", config=gc_config(kept, pair)))
    assert journaled(cluster.a) == {kept.container_id, others.container_id}
    assert cluster.interfaces(primary) == []
    assert cluster.state() is State.PENDING
    assert journaled(cluster.b) == {pair.container_id}
    assert cluster.interfaces(pair) == ["in2"]

    assert_silent(cluster.a.call("GC", config=gc_config()))
    assert journaled(cluster.a) == {others.container_id}
    assert not list(cluster.a.state_dir.glob(f"deleted/{others.container_id}*"))
    assert journaled(cluster.b) == {pair.container_id}
    assert cluster.interfaces(pair) == ["in2"]


# STATUS


def test_status_reports_whether_add_can_be_served(cluster: Cluster) -> None:
    assert_silent(cluster.a.call("STATUS", config=LATEST))
    wrong = cluster.a.call("STATUS", config={**LATEST, "parent_interface": "eth9"})
    assert_refused(wrong, 50, "parent_interface", "eth9")
    assert "eth0" in wrong.json["details"]


@pytest.mark.parametrize("how", ["breaks", "hangs"])
def test_status_is_code_50_while_the_api_is_down(cluster: Cluster, how: str) -> None:
    gate = Gate()
    cluster.faults.add(Rule(from_node_a(cluster), before=dropping if how == "breaks" else gate, times=1000))
    try:
        answer = cluster.a.call("STATUS", config=LATEST)
    finally:
        gate.opened.set()
    assert_refused(answer, 50, "Kubernetes API")


def from_node_a(cluster: Cluster) -> Any:
    def matches(sent: Sent) -> bool:
        return sent.remote == cluster.a.host.address

    return matches


# Log


@pytest.mark.daemonless
def test_the_log_goes_to_stderr_and_to_a_file(cluster: Cluster, tmp_path: Path) -> None:
    """Log retired keys of 2017 in one line, and unknown keys in another. stdout has only the result."""
    file = tmp_path / "ratchet.log"
    retired = {"etcd_host": "e", "etcd_port": "2379", "child_path": "/x", "use_labels": True, "cniDir": "/y"}
    config = {**LATEST, **retired, "cniVersions": ["1.0.0", "1.1.0"], "colour": "red", "kubconfig": "/z"}
    plain = cluster.pod("plain", {}, cluster.a)
    answer = cluster.a.add(plain, config={**config, "log_file": str(file)})
    assert answer.json == {"cniVersion": "1.1.0", "ips": [], "dns": {}}
    assert file.read_text() == answer.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    lines = answer.stderr.splitlines()
    assert all(f"ADD pod=default/plain sandbox={plain.container_id[:13]}: " in line for line in lines)
    ignored = [line for line in lines if "ignored" in line]
    assert len(ignored) == 1
    assert ignored[0].endswith("ignored keys=etcd_host, etcd_port, child_path, use_labels, cniDir")
    unknown = [line for line in lines if "unknown keys" in line]
    assert len(unknown) == 1
    assert unknown[0].endswith("network configuration keys=colour, kubconfig")
    assert_silent(cluster.a.call("DEL", plain, config={**config, "log_file": str(file), "log_level": "error"}))
    assert file.read_text() == answer.stderr


@pytest.mark.daemonless
@pytest.mark.parametrize("log_file", ["/dev/full", "/proc/no-such-folder/log", "/dev"])
def test_an_unwritable_log_file_does_not_fail_add(cluster: Cluster, log_file: str) -> None:
    plain = cluster.pod("plain", {}, cluster.a)
    answer = cluster.a.add(plain, config={**CHAINED, "log_file": log_file})
    assert answer.json == {"cniVersion": "1.0.0", "ips": [], "dns": {}}
    assert f"cannot write log_file {log_file}" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_pods_annotation_cannot_forge_log_lines(cluster: Cluster) -> None:
    forged = "x\n2026-01-01 00:00:00,000 ratchet[1] ERROR ADD pod=kube-system/dns: all is lost\x1b[31m"
    hostile = cluster.pod("hostile", PRIMARY, cluster.a, **{"ratchet.local_ifname": forged})
    answer = cluster.a.add(hostile)
    assert_refused(answer, 101, "ratchet.local_ifname")
    assert answer.error.isprintable()
    lines = [line for line in cluster.log_of(cluster.a, answer).splitlines() if "local_ifname" in line]
    assert lines
    assert all(line.isprintable() and "pod=default/hostile" in line for line in lines)


def test_the_plugin_imports_no_module_from_its_working_directory_or_pythonpath(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Call the plugin in a directory with modules that shadow its imports."""
    (tmp_path / "ratchet.py").write_text("raise SystemExit('imported')")
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    process = subprocess.run(
        command_in(cluster.a.host.netns, str(cluster.a.bin_dir / "ratchet")),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "CNI_COMMAND": "VERSION"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads(process.stdout)["supportedVersions"] == SUPPORTED
