"""Delegate plugins, as in 2017: Debian's plugins, and scripts that fail or print invalid results."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ratchet.core.model import State
from ratchet.dev.fake_kubelet import DEBIAN_PLUGINS, CniResponse, Kubelet, Sandbox
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.support.cluster import CHAINED, LINK, Cluster
from tests.support.disks import BrokenDisk, small_disk

pytestmark = pytest.mark.skipif(
    not Path(DEBIAN_PLUGINS, "ptp").exists(), reason="needs Debian's containernetworking-plugins"
)

EXAMPLE = json.loads((Path(__file__).parents[2] / "manifests/examples/10-ratchet.conf").read_text())
VERSIONS = ["", "0.3.1", "0.4.0", "1.0.0"]
PLAIN = {"app": "web"}


@dataclass
class Network:
    """The example configuration with the delegate ptp. Its host-local addresses are files in `leases`."""

    leases: Path

    def config(self, node: Kubelet, version: str = "1.0.0", **changes: Any) -> dict[str, Any]:
        """Build the configuration of a node. A change to None removes the key."""
        ipam = {"type": "host-local", "subnet": "10.88.0.0/24", "dataDir": str(self.leases / node.host.name)}
        config = {**EXAMPLE, "parent_address": node.host.address, "wait": 30}
        config["delegate"] = {"name": "pods", "type": "ptp", "ipam": ipam}
        if version:
            config["cniVersion"] = version
        return {key: value for key, value in {**config, **changes}.items() if value is not None}

    def allocated_ips(self, node: Kubelet) -> list[str]:
        """Return the addresses that host-local has allocated on a node and not yet released."""
        return sorted(path.name for path in self.leases.glob(f"{node.host.name}/pods/10.88.*"))


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(tmp_path / "leases")


def configure(cluster: Cluster, network: Network, version: str = "1.0.0", **changes: Any) -> None:
    """Configure the kubelets of both nodes."""
    for node in (cluster.a, cluster.b):
        node.config = network.config(node, version, **changes)


def address_in(result: dict[str, Any]) -> str:
    """Return the pod's address in a result of any CNI version, as the runtime finds it."""
    if "ip4" in result:
        return str(result["ip4"]["ip"])
    own = [index for index, one in enumerate(result.get("interfaces", [])) if one["name"] == "eth0"]
    return next(str(one["address"]) for one in result["ips"] if one["interface"] in own[-1:])


def address_of(cluster: Cluster, sandbox: Sandbox, ifname: str = "eth0") -> str:
    shown = next(one for one in cluster.show(sandbox, ifname)["addr_info"] if one["family"] == "inet")
    return f"{shown['local']}/{shown['prefixlen']}"


def error_of(answer: CniResponse) -> tuple[int, str]:
    assert answer.status != 0
    return int(answer.json["code"]), answer.error


# The configuration of 2017


@pytest.mark.parametrize("version", [pytest.param(VERSIONS[0], marks=pytest.mark.executed), *VERSIONS[1:]])
def test_the_2017_configuration_gives_linked_pods_the_boot_network(
    cluster: Cluster, network: Network, version: str
) -> None:
    """Add both kinds of pods in every CNI version: linked pods get `boot_network`, others `delegate`."""
    configure(cluster, network, version)
    plain = cluster.pod("plain", PLAIN, cluster.a)
    result = cluster.a.add(plain).json
    assert result["cniVersion"] == version or (version, result["cniVersion"]) == ("", "0.1.0")
    assert address_in(result) == address_of(cluster, plain)
    assert network.allocated_ips(cluster.a) == [address_of(cluster, plain).partition("/")[0]]

    primary, pair = cluster.linked_pair()
    assert (cluster.interfaces(primary), cluster.interfaces(pair)) == (["in1"], ["in2"])
    assert len(network.allocated_ips(cluster.a)) == 1
    assert cluster.pings(primary, "192.168.2.101")
    linked = primary.result or {}
    if version:
        assert [one["name"] for one in linked["interfaces"]] == ["lo", "in1"]
    else:
        assert linked == {"cniVersion": "0.1.0", "dns": {}}  # the address of lo is not the pod's address
    cluster.delete_all((cluster.a, plain), (cluster.a, primary), (cluster.b, pair))
    assert network.allocated_ips(cluster.a) == []
    cluster.assert_nothing_left()


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_boot_network_linked_pods_get_the_delegate_too(
    cluster: Cluster, network: Network, version: str
) -> None:
    configure(cluster, network, version, boot_network=None)
    primary, pair = cluster.linked_pair(cluster.a)
    assert [sorted(cluster.interfaces(one)) for one in (primary, pair)] == [["eth0", "in1"], ["eth0", "in2"]]
    for sandbox in (primary, pair):
        assert address_in(sandbox.result or {}) == address_of(cluster, sandbox)
    assert len(network.allocated_ips(cluster.a)) == 2
    assert cluster.pings(primary, "192.168.2.101")
    assert cluster.pings(primary, address_of(cluster, pair).partition("/")[0])
    cluster.delete_all((cluster.a, primary), (cluster.a, pair))
    assert network.allocated_ips(cluster.a) == []
    cluster.assert_nothing_left()


def test_add_warns_of_a_result_without_an_address_on_the_pods_interface(cluster: Cluster, network: Network) -> None:
    """Compare with a result that has an address. containerd rejects the other without a reason."""
    warning = "the result has no address on eth0: containerd will refuse the sandbox"
    configure(cluster, network)
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.a)
    with_lo, with_ptp = cluster.a.config, network.config(cluster.a, boot_network=None)
    waiting = cluster.start("ADD", cluster.a, pair, config=with_ptp)
    answers = [cluster.a.add(primary, config=with_lo), cluster.end(waiting)]
    assert [answer.status for answer in answers] == [0, 0]
    for sandbox, answer, is_warned in zip((primary, pair), answers, (True, False), strict=True):
        pod_lines = [line for line in cluster.log_of(cluster.a, answer).splitlines() if f"pod={sandbox.pod}" in line]
        assert any(warning in line for line in pod_lines) is is_warned


def test_a_pod_without_links_needs_a_delegate(cluster: Cluster, network: Network) -> None:
    plain = cluster.pod("plain", PLAIN, cluster.a)
    answer = cluster.a.add(plain, config=network.config(cluster.a, delegate=None))
    code, message = error_of(answer)
    assert code == 7
    assert "pod default/plain" in message
    assert "no delegate" in message
    cluster.assert_nothing_left()


# DEL


@pytest.mark.own_cluster  # without the journal entry, DEL leaves the record to gc
@pytest.mark.parametrize("gone", ["the result", "the namespace", "what the node noted", "all of it"])
def test_del_frees_the_address_without_result_namespace_or_journal_entry(
    cluster: Cluster, network: Network, gone: str
) -> None:
    configure(cluster, network, boot_network=None)
    primary, pair = cluster.linked_pair(cluster.a)
    plain = cluster.pod("plain", PLAIN, cluster.a)
    assert cluster.a.add(plain).status == 0
    assert len(network.allocated_ips(cluster.a)) == 3
    changes: dict[str, Any] = {}
    for sandbox in (primary, plain):
        if gone in ("the result", "all of it"):
            sandbox.result = None
        if gone in ("the namespace", "all of it"):
            cluster.bed.hosts.remove_namespace(sandbox.netns)
            changes = {"CNI_NETNS": ""}
        if gone in ("what the node noted", "all of it"):
            cluster.a.forget(sandbox)
        answer = cluster.a.call("DEL", sandbox, **changes)
        assert (answer.status, answer.stdout) == (0, ""), answer
    assert network.allocated_ips(cluster.a) == [address_in(pair.result or {}).partition("/")[0]]
    assert cluster.a.delete(pair).status == 0
    assert network.allocated_ips(cluster.a) == []


def test_del_under_a_new_network_name_frees_the_address(cluster: Cluster, network: Network) -> None:
    configure(cluster, network)
    plain = cluster.pod("plain", PLAIN, cluster.a)
    assert cluster.a.add(plain).status == 0
    assert len(network.allocated_ips(cluster.a)) == 1
    assert cluster.a.call("DEL", plain, config=network.config(cluster.a, name="renamed")).status == 0
    assert network.allocated_ips(cluster.a) == []
    assert cluster.interfaces(plain) == []
    cluster.forget_pods(plain)
    cluster.assert_nothing_left()


def test_del_calls_the_delegate_with_the_configuration_of_its_add(cluster: Cluster, network: Network) -> None:
    """Change the configuration to another network between ADD and DEL. The old address is still freed."""
    configure(cluster, network)
    plain = cluster.pod("plain", PLAIN, cluster.a)
    assert cluster.a.add(plain).status == 0
    assert len(network.allocated_ips(cluster.a)) == 1
    elsewhere = {"name": "new", "type": "ptp", "ipam": {"type": "host-local", "subnet": "10.99.0.0/24"}}
    assert cluster.a.delete(plain, config=network.config(cluster.a, delegate=elsewhere)).status == 0
    assert network.allocated_ips(cluster.a) == []
    cluster.assert_nothing_left()


# A full or read-only state directory


@pytest.fixture(params=["full", "read-only"])
def broken_disk(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[BrokenDisk]:
    """A small disk at the state directory of node a."""
    with small_disk(cluster.a.state_dir) as folder:
        yield BrokenDisk(folder, request.param)


def test_fault_29_pods_without_links_start_and_stop_on_a_broken_disk(
    cluster: Cluster, network: Network, broken_disk: BrokenDisk
) -> None:
    """The delegate's DEL needs its result, which the runtime sends if the journal does not have it."""
    configure(cluster, network)
    plain = cluster.pod("plain", PLAIN, cluster.a)
    broken_disk.break_down()
    assert address_in(cluster.a.add(plain).json) == address_of(cluster, plain)
    assert len(network.allocated_ips(cluster.a)) == 1
    answer = cluster.a.call("DEL", plain)
    assert (answer.status, answer.stdout) == (0, ""), answer
    assert network.allocated_ips(cluster.a) == []
    broken_disk.repair()
    cluster.forget_pods(plain)
    cluster.assert_nothing_left()


def test_fault_29_an_add_that_del_could_not_undo_is_refused_on_a_broken_disk(
    cluster: Cluster, network: Network, broken_disk: BrokenDisk
) -> None:
    """The runtime speaks 0.3.1 and sends no result to DEL. The delegate speaks 1.0.0 and needs its own."""
    config = network.config(cluster.a, "0.3.1")
    config["delegate"]["cniVersion"] = "1.0.0"
    plain = cluster.pod("plain", PLAIN, cluster.a)
    broken_disk.break_down()
    code, message = error_of(cluster.a.add(plain, config=config))
    assert code == 100
    assert message.startswith("cannot write /")
    assert broken_disk.cause in message
    assert network.allocated_ips(cluster.a) == []
    assert cluster.interfaces(plain) == []
    assert cluster.a.call("DEL", plain, config=config).status == 0
    broken_disk.repair()
    assert cluster.a.add(plain, config=config).status == 0
    assert cluster.a.delete(plain, config=config).status == 0
    assert network.allocated_ips(cluster.a) == []


# Unreadable journal files


@pytest.mark.parametrize(
    "content", ["", '{"network": "net", "sandbox": {"of": "a newer Ratchet"}}'], ids=["torn", "newer"]
)
@pytest.mark.parametrize("how", ["DEL", "GC"])
def test_del_and_gc_free_the_address_of_an_unreadable_journal_file_and_keep_the_file(
    cluster: Cluster, network: Network, content: str, how: str
) -> None:
    configure(cluster, network)
    plain = cluster.pod("plain", PLAIN, cluster.a)
    assert cluster.a.add(plain).status == 0
    (file,) = (cluster.a.state_dir / "sandboxes").glob(f"{plain.container_id}+*")
    agent = cluster.bed.agents.get("a")
    if agent is not None:
        agent.kill()
    file.write_text(content)
    if agent is not None:
        agent.start()
    if how == "DEL":
        answer = cluster.a.call("DEL", plain)
    else:
        answer = cluster.a.call("GC", config={**network.config(cluster.a, "1.1.0"), "cni.dev/valid-attachments": []})
    assert (answer.status, answer.stdout) == (0, ""), answer
    assert network.allocated_ips(cluster.a) == []
    assert not file.exists()
    kept = cluster.a.state_dir / "unreadable" / file.name
    assert kept.read_text() == content
    assert cluster.a.call("DEL", plain).status == 0
    kept.unlink()


# CHECK


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_check_calls_the_delegate(cluster: Cluster, network: Network, version: str) -> None:
    configure(cluster, network, version, boot_network=None)
    plain = cluster.pod("plain", PLAIN, cluster.a)
    assert cluster.a.add(plain).status == 0
    answer = cluster.a.call("CHECK", plain)
    assert (answer.status, answer.stdout) == (0, ""), answer
    ip("-n", plain.netns, "link", "del", "eth0")
    _, message = error_of(cluster.a.call("CHECK", plain))
    assert message.startswith("cannot check the delegate network (type ptp): ")


# Failures of delegates and links


@dataclass
class Script:
    """A scripted delegate, first in CNI_PATH: it records each call, then prints and exits as configured."""

    folder: Path

    NAME = "scripted"

    def __post_init__(self) -> None:
        (self.folder / "calls").touch()
        self.answers: dict[str, tuple[int, str]] = {}
        self.respond("VERSION", 0, {"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]})
        self.respond("ADD", 0, {"cniVersion": "1.1.0", "ips": [{"address": "10.5.0.9/24"}]})

    def respond(self, command: str, status: int, answer: dict[str, Any], then: str = "") -> None:
        """Set the exit status and the JSON output of a command. The shell line `then` runs before the exit."""
        self.print_output(command, status, json.dumps(answer), then)

    def print_output(self, command: str, status: int, text: str, then: str = "") -> None:
        self.answers[command] = (status, f"echo '{text}'\n{then}")
        cases = "\n".join(f"{name}) {lines}\nexit {status};;" for name, (status, lines) in self.answers.items())
        script = f'#!/bin/sh\necho "$CNI_COMMAND $CNI_CONTAINERID" >> {self.folder}/calls\ncat > /dev/null\n'
        file = self.folder / self.NAME
        file.write_text(f"{script}case $CNI_COMMAND in\n{cases}\nesac\n")
        file.chmod(0o755)

    def calls(self, command: str) -> list[str]:
        """Return the container IDs of the calls of a command."""
        calls = [line.partition(" ") for line in (self.folder / "calls").read_text().splitlines()]
        return [container_id for name, _, container_id in calls if name == command]

    def path(self, node: Kubelet) -> str:
        return f"{self.folder}:{node.bin_dir}"


@pytest.fixture
def script(cluster: Cluster, tmp_path: Path) -> Iterator[Script]:
    """The scripted delegate. At teardown its DEL succeeds, so that the remaining sandboxes are deleted."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    made = Script(folder)
    yield made
    made.respond("DEL", 0, {})
    for node, sandbox in cluster.left():
        assert node.call("DEL", sandbox, config=scripted(), CNI_PATH=made.path(node)).status == 0


def scripted(**changes: Any) -> dict[str, Any]:
    return {**CHAINED, "cniVersion": "1.1.0", "delegate": {"type": Script.NAME}, **changes}


def test_a_failed_delegate_is_deleted_and_its_error_is_returned(cluster: Cluster, script: Script) -> None:
    script.respond("ADD", 1, {"cniVersion": "1.1.0", "code": 142, "msg": "no room", "details": "ask for more"})
    plain = cluster.pod("plain", PLAIN, cluster.a)
    answer = cluster.a.add(plain, config=scripted(), CNI_PATH=script.path(cluster.a))
    code, message = error_of(answer)
    assert code == 142
    assert "no room" in message
    assert "ask for more" in answer.json["details"]
    assert script.calls("ADD") == [plain.container_id]
    assert set(script.calls("DEL")) == {plain.container_id}
    cluster.assert_nothing_left()


@pytest.mark.parametrize(
    "printed",
    [
        "",
        'level=info starting\n{"cniVersion": "1.1.0"}',
        '{"cniVersion": "9.9.9", "ips": []}',
        '{"cniVersion": "1.1.0", "ips": [{"address": "10.5.0.9/24", "interface": 1}], "interfaces": []}',
    ],
    ids=["nothing", "a log line before the result", "an unknown version", "an address of no interface"],
)
def test_an_invalid_delegate_result_fails_add_and_is_rolled_back(
    cluster: Cluster, script: Script, printed: str
) -> None:
    """Print results that a runtime would reject without naming the delegate. The error names it."""
    script.print_output("ADD", 0, printed)
    plain = cluster.pod("plain", PLAIN, cluster.a)
    _, message = error_of(cluster.a.add(plain, config=scripted(), CNI_PATH=script.path(cluster.a)))
    assert message.startswith("cannot add the delegate network (type scripted): ")
    assert set(script.calls("DEL")) == {plain.container_id}
    cluster.assert_nothing_left()


def test_the_error_names_a_missing_delegate_and_the_search_path(cluster: Cluster) -> None:
    plain = cluster.pod("plain", PLAIN, cluster.a)
    answer = cluster.a.add(plain, config=scripted(delegate={"type": "no-such-plugin"}))
    _, message = error_of(answer)
    assert "no-such-plugin" in message
    assert str(cluster.a.bin_dir) in message
    assert DEBIAN_PLUGINS in message


def test_a_del_without_a_journal_entry_is_repeated_until_the_delegate_succeeds(
    cluster: Cluster, script: Script
) -> None:
    """The second DEL must not rely on the tombstone of the first one. The third one may."""
    plain = cluster.pod("plain", PLAIN, cluster.a)
    call = {"config": scripted(), "CNI_PATH": script.path(cluster.a)}
    script.respond("DEL", 1, {"cniVersion": "1.1.0", "code": 11, "msg": "try again"})
    assert error_of(cluster.a.call("DEL", plain, **call))[0] == 11
    script.respond("DEL", 0, {})
    for _ in range(2):
        assert cluster.a.call("DEL", plain, **call).status == 0
    assert script.calls("DEL") == [plain.container_id] * 2
    cluster.forget_pods(plain)


# Signals during a roll-back


def held(script: Script, tmp_path: Path) -> Path:
    """Have the delegate's DEL wait for a file, and then create another one. Returns the file that it waits for."""
    release = tmp_path / "release"
    script.respond("DEL", 0, {}, f"while [ ! -e {release} ]; do sleep 0.02; done; touch {tmp_path}/deleted")
    return release


@pytest.mark.daemonless
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_later_signals_do_not_abort_the_roll_back_that_the_first_one_began(
    cluster: Cluster, script: Script, tmp_path: Path, number: signal.Signals
) -> None:
    release, primary = held(script, tmp_path), cluster.primary(cluster.a)
    adding = cluster.start("ADD", cluster.a, primary, config=scripted(), CNI_PATH=script.path(cluster.a))
    cluster.wait_until(State.PRIMARY_READY)
    adding.send_signal(number)
    wait_for("the roll-back", lambda: script.calls("DEL") == [primary.container_id])
    for _ in range(3):
        adding.send_signal(number)
    assert adding.poll() is None
    release.touch()
    answer = cluster.end(adding)
    assert error_of(answer)[0] == 11
    assert f"the plugin received {number.name}" in answer.error
    assert (tmp_path / "deleted").exists()
    assert cluster.interfaces(primary) == []
    cluster.assert_nothing_left()


@pytest.mark.daemonless
def test_sigterm_does_not_abort_a_del(cluster: Cluster, script: Script, tmp_path: Path) -> None:
    release, plain = held(script, tmp_path), cluster.pod("plain", PLAIN, cluster.a)
    assert cluster.a.add(plain, config=scripted(), CNI_PATH=script.path(cluster.a)).status == 0
    deleting = cluster.start("DEL", cluster.a, plain, config=scripted(), CNI_PATH=script.path(cluster.a))
    wait_for("the delegate's DEL", lambda: script.calls("DEL") == [plain.container_id])
    deleting.send_signal(signal.SIGTERM)
    release.touch()
    assert cluster.end(deleting).status == 0
    assert (tmp_path / "deleted").exists()
    cluster.forget_pods(plain)
    cluster.assert_nothing_left()


@pytest.mark.parametrize("failure", ["wait", "interface"])
def test_a_failed_link_rolls_back_the_delegate(cluster: Cluster, network: Network, failure: str) -> None:
    """Let the link fail in two ways: the peer is missing, or a foreign interface has the name."""
    configure(cluster, network, boot_network=None, wait=1, wait_policy="require")
    primary = cluster.primary(cluster.a)
    if failure == "interface":
        ip(*f"-n {primary.netns} link add in1 type bridge".split())
        joined = cluster.start("ADD", cluster.a, cluster.pair(cluster.a), config={**CHAINED, "name": "apart"})
        cluster.wait_until(State.PENDING)
        joined.kill()
        joined.wait()
    answer = cluster.a.add(primary)
    assert error_of(answer)[0] == (11 if failure == "wait" else 102), answer
    assert network.allocated_ips(cluster.a) == []
    assert cluster.interfaces(primary) == ([] if failure == "wait" else ["in1"])
    assert not list(cluster.a.state_dir.glob(f"sandboxes/{primary.container_id}*"))
    names = [one["ifname"] for one in json.loads(ip("-j", "-n", cluster.a.host.netns, "link", "show"))]
    assert names == ["lo", "eth0"]


def test_del_fails_until_the_del_of_the_delegate_succeeds(cluster: Cluster, script: Script) -> None:
    """Fail DEL without the words "not found", which containerd takes for success."""
    plain = cluster.pod("plain", PLAIN, cluster.a)
    changes: dict[str, Any] = {"config": scripted(), "CNI_PATH": script.path(cluster.a)}
    assert cluster.a.add(plain, **changes).status == 0
    script.respond("DEL", 1, {"cniVersion": "1.1.0", "code": 999, "msg": "bridge br0 not found"})
    answer = cluster.a.call("DEL", plain, **changes)
    code, message = error_of(answer)
    assert code == 999
    assert "bridge br0" in message
    assert "not found" not in answer.stdout
    script.respond("DEL", 0, {})
    again = cluster.a.call("DEL", plain, **changes)
    assert (again.status, again.stdout) == (0, "")
    cluster.assert_nothing_left()


def test_a_failed_add_gets_no_link_while_the_del_of_its_delegate_fails(cluster: Cluster, script: Script) -> None:
    """Start a pair while the journal still has the failed sandbox, whose DEL has not succeeded."""
    changes: dict[str, Any] = {"CNI_PATH": script.path(cluster.a)}
    script.respond("DEL", 1, {"cniVersion": "1.1.0", "code": 999, "msg": "busy"})
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.a)
    assert error_of(cluster.a.add(primary, config=scripted(wait=0), **changes))[0] == 11
    waiting = cluster.start("ADD", cluster.a, pair, config={**CHAINED, "wait": 2})
    cluster.wait_until(State.PENDING)
    assert error_of(cluster.end(waiting))[0] == 11
    script.respond("DEL", 0, {})
    for sandbox in (primary, pair):
        assert cluster.a.call("DEL", sandbox, config=scripted(), **changes).status == 0
    cluster.assert_nothing_left()


def test_gc_and_status_call_the_delegate_and_gc_continues_after_errors(cluster: Cluster, script: Script) -> None:
    changes: dict[str, Any] = {"CNI_PATH": script.path(cluster.a)}
    lost = [cluster.pod(name, PLAIN, cluster.a) for name in ("lost1", "lost2", "lost3")]
    for sandbox in lost:
        assert cluster.a.add(sandbox, config=scripted(), **changes).status == 0
    broken, *others = sorted(sandbox.container_id for sandbox in lost)
    script.respond("DEL", 1, {"code": 150, "msg": "busy"}, f"[ $CNI_CONTAINERID = {broken} ] || exit 0")
    answer = cluster.a.call("GC", config={**scripted(), "cni.dev/valid-attachments": []}, **changes)
    code, message = error_of(answer)
    assert (code, "busy" in message) == (150, True)
    left = [path.name.partition("+")[0] for path in cluster.a.state_dir.glob("sandboxes/*")]
    assert left == [broken]
    assert set(others) <= set(script.calls("DEL"))
    assert len(script.calls("GC")) == 1

    assert cluster.a.call("STATUS", config=scripted(), **changes).status == 0
    script.respond("STATUS", 1, {"cniVersion": "1.1.0", "code": 51, "msg": "no uplink"})
    code, message = error_of(cluster.a.call("STATUS", config=scripted(), **changes))
    assert (code, "no uplink" in message) == (51, True)


@pytest.fixture
def left_behind(tmp_path: Path) -> Iterator[Path]:
    """The PID file of a process that a delegate leaves running. Teardown kills the process."""
    file = tmp_path / "left-behind"
    yield file
    if file.exists():
        with suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def test_a_process_that_a_delegate_leaves_running_does_not_block_add(
    cluster: Cluster, script: Script, left_behind: Path
) -> None:
    """Leave a child that inherits the delegate's stdout, as a DHCP daemon may."""
    script.respond("ADD", 0, {"cniVersion": "1.1.0"}, f"sleep 300 & echo $! > {left_behind}")
    plain = cluster.pod("plain", PLAIN, cluster.a)
    adding = cluster.start("ADD", cluster.a, plain, config=scripted(), CNI_PATH=script.path(cluster.a))
    assert cluster.end(adding, seconds=20).status == 0
    os.kill(int(left_behind.read_text()), 0)  # it still runs


# The parent interface


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parent_interface": "eth9"}, ("parent_interface", "eth9", "no such interface", "eth0")),
        ({"parent_address": "192.168.1.99"}, ("parent_address", "192.168.1.99", "does not carry it", "192.168.1.73")),
        (
            {"parent_interface": None, "parent_address": "192.168.1.99"},
            ("parent_address", "192.168.1.99", "no interface of the node carries it", "eth0"),
        ),
    ],
)
def test_the_error_names_a_missing_parent_and_what_the_node_has(
    cluster: Cluster, network: Network, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    primary = cluster.primary(cluster.a)
    answer = cluster.a.add(primary, config=network.config(cluster.a, **changes))
    assert error_of(answer)[0] == 7
    for word in words:
        assert word in answer.stdout
    assert network.allocated_ips(cluster.a) == []
    cluster.assert_nothing_left()


def add_eth1(cluster: Cluster, node: Kubelet, address: str) -> None:
    """Add a second interface to a node, as for a storage or management network."""
    netns = node.host.netns
    ip(*f"-n {netns} link add eth1 type veth peer name far1 netns {cluster.bed.hosts.switch}".split())
    ip(*f"-n {netns} addr add {address} dev eth1".split())
    for where, name in ((netns, "eth1"), (cluster.bed.hosts.switch, "far1")):
        ip("-n", where, "link", "set", name, "up")


PARENT_CASES = {
    "by the address in the API, not by the default route": ("10.20.0.1/24", ["10.20.0.1"], [], "10.20.0.1"),
    "by the default route, the API having none": ("10.20.0.1/24", [], [], "192.168.1.73"),
    "by the default route, the API having one of another machine": (
        "10.20.0.1/24",
        ["172.16.9.9"],
        [],
        "192.168.1.73",
    ),
    "by the default route of the lowest metric": (
        "10.20.0.1/24",
        [],
        ["del default", "add default via 192.168.1.1 metric 200", "add default via 10.20.0.254 metric 100"],
        "10.20.0.1",
    ),
    "by the default route of IPv6, IPv4 having none": (
        "fd00:20::1/64 nodad",
        [],
        ["del default", "add default via fd00:20::fe dev eth1"],
        "fd00:20::1",
    ),
}


@pytest.mark.own_cluster
@pytest.mark.parametrize("case", PARENT_CASES)
def test_a_parent_that_is_not_configured_is_detected(cluster: Cluster, case: str) -> None:
    """Compare the VTEP in the record: the address at which other nodes reach the tunnels of this node."""
    address, in_the_api, routes, vtep = PARENT_CASES[case]
    add_eth1(cluster, cluster.a, address)
    cluster.set_internal_ips(cluster.a, *in_the_api)
    for change in routes:
        ip("-n", cluster.a.host.netns, "route", *change.split())
    cluster.renew(cluster.a)
    cluster.start("ADD", cluster.a, cluster.primary(cluster.a))
    cluster.wait_until(State.PRIMARY_READY)
    sandbox = cluster.bed.links()[LINK].primary.sandbox
    assert sandbox is not None
    assert sandbox.vtep == vtep


@pytest.mark.own_cluster
def test_the_error_of_an_undetectable_parent_names_the_keys_to_set(cluster: Cluster) -> None:
    cluster.set_internal_ips(cluster.a)
    ip("-n", cluster.a.host.netns, "route", "del", "default")
    cluster.renew(cluster.a)
    answer = cluster.a.add(cluster.primary(cluster.a))
    assert error_of(answer)[0] == 7
    assert "parent_interface or parent_address" in answer.json["details"]
    cluster.assert_nothing_left()


def test_tunnels_use_an_ipv6_underlay(cluster: Cluster) -> None:
    """Configure the address on one node, and take it from the API on the other. Headers take 70 bytes."""
    vteps = {"a": "fd00:1::73", "b": "fd00:1::33"}
    for node in (cluster.a, cluster.b):
        ip(*f"-n {node.host.netns} addr add {vteps[node.host.name]}/64 dev eth0 nodad".split())
    cluster.a.config = {**CHAINED, "parent_address": vteps["a"]}
    cluster.set_internal_ips(cluster.b, vteps["b"])
    cluster.renew(cluster.b)
    primary, pair = cluster.linked_pair()
    for sandbox, ifname, own, peer in ((primary, "in1", "a", "b"), (pair, "in2", "b", "a")):
        shown = cluster.show(sandbox, ifname)
        tunnel = shown["linkinfo"]["info_data"]
        assert shown["mtu"] == 1430
        assert (tunnel["local6"], tunnel["remote6"]) == (vteps[own], vteps[peer])
    assert cluster.pings(primary, "192.168.2.101")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()
