"""The agent's socket, start and stop, STATUS and CHECK, HTTP endpoint, Events and condition."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from ratchet.agent.frame import HEADER_BYTES, Request, encode_request, read_answer
from ratchet.core.model import State
from ratchet.core.pod import PodRef
from ratchet.dev.agents import AgentProcess
from ratchet.dev.fake_kubelet import CniResponse, Kubelet, Sandbox
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.agent.pages import HEALTH, connect, page
from tests.support.cluster import LINK, PAIR, PATIENT, PRIMARY, Cluster, clean_cluster, end_pods, sent_by
from tests.support.faults import Gate, Rule, dropping

LATEST = {**PATIENT, "cniVersion": "1.1.0"}
OTHER_USER = "65534"
GATE = "ratchet/linked"


def assert_silent(answer: CniResponse) -> None:
    assert (answer.status, answer.stdout) == (0, ""), answer


def assert_refused(answer: CniResponse, code: int, *words: str) -> None:
    assert answer.status == 1
    assert answer.json["code"] == code, answer
    for word in words:
        assert word in answer.error


def log_of(cluster: Cluster, node: Kubelet) -> str:
    return cluster.bed.agents[node.host.name].log.read_text()


# The socket and its permissions


def test_only_the_owner_can_access_the_socket(cluster: Cluster) -> None:
    path = cluster.bed.agents["a"].socket
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@contextmanager
def accessible_to_all(path: Path, root: Path) -> Iterator[None]:
    """Give everybody access to a socket and to the folders from `root` down to it, within the block."""
    folders = [one for one in path.parents if one == root or root in one.parents]
    before = {one: one.stat().st_mode & 0o7777 for one in (path, *folders)}
    for one in before:
        one.chmod(0o777)
    try:
        yield
    finally:
        for one, mode in before.items():
            one.chmod(mode)


def test_another_user_is_rejected_even_with_access_to_the_socket(cluster: Cluster) -> None:
    become_nobody = ["setpriv", "--reuid", OTHER_USER, "--regid", OTHER_USER, "--clear-groups"]
    if subprocess.run([*become_nobody, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("there is no other user in this user namespace")
    agent = cluster.bed.agents["a"]
    environment = {**os.environ, **agent.environment, "CNI_COMMAND": "STATUS", "CNI_PATH": str(cluster.a.bin_dir)}
    environment["RATCHET_PANEL"] = ""  # else the shim would make the state directory, for its lock
    with accessible_to_all(agent.socket, cluster.bed.folder):
        done = subprocess.run(
            cluster.a.host.command(*become_nobody, str(cluster.a.bin_dir / "ratchet")),
            env=environment,
            input=json.dumps(LATEST),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert json.loads(done.stdout)["code"] == 50
        assert "went away before it had answered" in json.loads(done.stdout)["msg"]
        wait_for(
            "the log line", lambda: f"of user {OTHER_USER} may not call: only root may" in log_of(cluster, cluster.a)
        )
        assert_silent(cluster.a.call("STATUS", config=LATEST))


def connected(cluster: Cluster) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(15)
    connection.connect(str(cluster.bed.agents["a"].socket))
    return connection


COMPLETE_FRAME = encode_request(Request({"CNI_COMMAND": "VERSION"}, b"{}", 1.0))
OTHER_VERSION = COMPLETE_FRAME[:4] + b"\x09" + COMPLETE_FRAME[5:]
TOO_LONG = COMPLETE_FRAME[: HEADER_BYTES - 4] + b"\xff\xff\xff\xff"


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        (b"GET / HTTP/1.1\r\nHost: ratchet\r\n\r\n", "it begins with"),
        (OTHER_VERSION, "its version is 9"),
        (TOO_LONG, "and may have"),
        (os.urandom(4096), "cannot read the frame"),
    ],
    ids=["http", "version", "too-long", "noise"],
)
def test_an_invalid_request_gets_an_error_and_later_calls_succeed(cluster: Cluster, sent: bytes, cause: str) -> None:
    with connected(cluster) as connection:
        connection.sendall(sent)
        answer = read_answer(connection.recv)
    assert answer.status == 1
    assert json.loads(answer.stdout)["code"] == 11
    assert cause in json.loads(answer.stdout)["msg"]
    assert_silent(cluster.a.call("STATUS", config=LATEST))


def test_clients_that_send_partial_requests_or_disconnect_block_no_call(cluster: Cluster) -> None:
    plain = cluster.pod("plain", {}, cluster.a)
    with ExitStack() as stack:
        for sent in [b"", COMPLETE_FRAME[:7], COMPLETE_FRAME[:-1]] * 40:
            stack.enter_context(connected(cluster)).sendall(sent)
        for _ in range(40):
            with connected(cluster) as closed:
                closed.sendall(COMPLETE_FRAME)
        assert cluster.a.add(plain).status == 0
        assert (
            metric(cluster.a, "ratchet_calls_in_progress") >= 120
        )  # the agent still waits for the rest of their requests
    assert_silent(cluster.a.call("DEL", plain))
    wait_for("the end of all calls", lambda: metric(cluster.a, "ratchet_calls_in_progress") == 0, 15)
    assert "a bug in ratchet" not in log_of(cluster, cluster.a)


def test_three_hundred_concurrent_calls_succeed(cluster: Cluster) -> None:
    running = [cluster.start("STATUS", cluster.a, None, config=LATEST) for _ in range(300)]
    for process in running:
        assert_silent(cluster.end(process))


# Start and stop


def test_sigterm_finishes_running_calls_and_keeps_links_up(cluster: Cluster) -> None:
    primary, _ = cluster.linked_pair()
    agent = cluster.bed.agents["a"]
    late = cluster.pod("late", {**PRIMARY, "ratchet.pair_name": "nobody"}, cluster.a)
    gate = Gate()
    cluster.faults.add(Rule(sent_by(cluster.a, "POST", path="/configmaps"), before=gate))
    adding = cluster.start("ADD", cluster.a, late)
    assert gate.reached.wait(20)
    log = agent.log.stat().st_size
    os.kill(agent.pid, signal.SIGTERM)
    wait_for("the end of the socket", lambda: not agent.socket.exists())
    assert agent.running
    assert_refused(cluster.a.call("STATUS", config=LATEST), 50, str(agent.socket))
    gate.opened.set()
    assert cluster.end(adding).status == 0
    wait_for("the agent's end", lambda: not agent.running)
    log_text = agent.log.read_bytes()[log:].decode()
    assert "agent stopping; links stay as they are" in log_text
    assert "ERROR" not in log_text
    assert "calls aborted" not in log_text
    assert not agent.socket.exists()
    assert cluster.state() is State.LINKED
    assert cluster.pings(primary, "192.168.2.101")
    agent.start()
    assert_silent(cluster.a.call("CHECK", primary))


def test_a_call_that_outlasts_drain_seconds_is_aborted() -> None:
    with clean_cluster(agent={"drain_seconds": 1}) as cluster:
        agent = cluster.bed.agents["a"]
        primary = cluster.primary(cluster.a)
        adding = cluster.start("ADD", cluster.a, primary, config={**PATIENT, "wait": 60, "wait_policy": "require"})
        cluster.wait_until(State.PRIMARY_READY)
        os.kill(agent.pid, signal.SIGTERM)
        assert_refused(cluster.end(adding), 11, "went away")
        wait_for("the agent's end", lambda: not agent.running)
        assert "calls aborted calls=1 drain_seconds=1" in agent.log.read_text()


def test_a_roll_back_outlasts_drain_seconds_and_more_signals(tmp_path: Path) -> None:
    """The DEL of the delegate waits for a file, so that the signals come while the ADD is rolled back."""
    rolling_back, release = tmp_path / "rolling-back", tmp_path / "release"
    delegate = tmp_path / "slow"
    delegate.write_text(
        '#!/bin/sh\ncat > /dev/null\ncase $CNI_COMMAND in\nADD) echo \'{"cniVersion": "1.0.0"}\';;\n'
        f"DEL) touch {rolling_back}; while [ ! -e {release} ]; do sleep 0.02; done;;\nesac\n"
    )
    delegate.chmod(0o755)
    with clean_cluster(agent={"drain_seconds": 0}) as cluster:
        agent, primary = cluster.bed.agents["a"], cluster.primary(cluster.a)
        config = {**PATIENT, "wait_policy": "require", "delegate": {"type": "slow", "cniVersion": "1.0.0"}}
        adding = cluster.start("ADD", cluster.a, primary, config=config, CNI_PATH=f"{tmp_path}:{cluster.a.bin_dir}")
        wait_for("the roll-back", rolling_back.exists)
        for _ in range(3):
            os.kill(agent.pid, signal.SIGTERM)
        wait_for("the end of the socket", lambda: not agent.socket.exists())
        os.kill(agent.pid, signal.SIGTERM)
        release.touch()
        assert_refused(cluster.end(adding), 11, "its peer has not joined")
        wait_for("the agent's end", lambda: not agent.running)
        assert not list((cluster.a.state_dir / "sandboxes").iterdir())


def test_a_second_agent_waits_for_the_first_and_takes_over(cluster: Cluster) -> None:
    """The second agent serves once the first was killed, and removes a link that the first created."""
    primary, _ = cluster.linked_pair()
    first = cluster.bed.agents["a"]
    options, capabilities = {"metrics_addr": ""}, first.capabilities
    second = AgentProcess(
        first.host, first.kubeconfig, first.folder, first.state_dir, options, capabilities=capabilities
    )
    serving = f"[{first.pid}]"
    second.launch()
    try:
        wait_for("the second to be at it", lambda: holds_open(second.pid, f"{first.socket}.lock"))
        assert_silent(cluster.a.call("CHECK", primary))
        assert second.running
        assert serving in last_line(first.log)
        os.kill(first.pid, signal.SIGKILL)
        wait_for("the second to serve", lambda: cluster.a.call("CHECK", primary).status == 0, 20)
        wait_for("a word of it", lambda: f"[{second.pid}]" in last_line(first.log))
        end_pods(cluster, (cluster.a, primary))
        cluster.wait_until_left()
    finally:
        second.stop()


def holds_open(pid: int, path: str) -> bool:
    found = Path(f"/proc/{pid}/fd")
    try:
        return any(str(one.readlink()) == path for one in found.iterdir())
    except OSError:
        return False


def last_line(log: Path) -> str:
    return log.read_text().splitlines()[-1]


# STATUS and CHECK


def test_status_returns_code_50_while_the_api_is_unreachable(cluster: Cluster) -> None:
    assert_silent(cluster.a.call("STATUS", config=LATEST))
    cluster.faults.add(Rule(sent_by(cluster.a), before=dropping, times=10**9))
    assert_refused(cluster.a.call("STATUS", config=LATEST), 50, "Kubernetes API")
    cluster.faults.clear()
    assert_silent(cluster.a.call("STATUS", config=LATEST))


def test_status_names_a_missing_parent_interface() -> None:
    """An interface that never existed, and one that is deleted while the agent runs."""
    with clean_cluster(agent={"heartbeat": 1, "node_lost_after": 3}) as cluster:
        wrong = cluster.a.call("STATUS", config={**LATEST, "parent_interface": "eth9"})
        assert_refused(wrong, 50, "parent_interface", "eth9")
        assert "eth0" in wrong.json["details"]
        netns = cluster.a.host.netns
        for command in ("link add up0 type bridge", "addr add 10.7.0.1/24 dev up0", "link set up0 up"):
            ip("-n", netns, *command.split())
        by_up0 = {**LATEST, "parent_interface": "up0"}
        assert_silent(cluster.a.call("STATUS", config=by_up0))
        ip("-n", netns, "link", "del", "up0")
        wait_for("a word on it", lambda: cluster.a.call("STATUS", config=by_up0).status != 0)
        assert_refused(cluster.a.call("STATUS", config=by_up0), 50, "parent_interface", "up0")
        assert_silent(cluster.a.call("STATUS", config=LATEST))


DAMAGES = {
    "no interface": ("link del in1", "in1 is not there"),
    "no address": ("addr flush dev in1", "192.168.2.100"),
    "MTU": ("link set in1 mtu 1280", "in1 has MTU 1280"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("node_of_pair", ["a", "b"])
def test_check_accepts_linked_and_waiting_ends_and_names_damage(
    cluster: Cluster, node_of_pair: str, damage: str
) -> None:
    node = cluster.a if node_of_pair == "a" else cluster.b
    command, difference = DAMAGES[damage]
    primary = cluster.primary(cluster.a)
    assert cluster.a.add(primary).status == 0
    assert_silent(cluster.a.call("CHECK", primary))  # it waits for its peer
    pair = cluster.pair(node)
    assert node.add(pair).status == 0
    cluster.wait_until(State.LINKED)
    assert_silent(cluster.a.call("CHECK", primary))
    with cluster.lock_link(cluster.a):
        ip("-n", primary.netns, *command.split())
        assert_refused(cluster.a.call("CHECK", primary), 104, LINK, difference)
    assert_refused(cluster.a.call("CHECK", cluster.pod("never", {}, cluster.a)), 7, "prevResult")


# /metrics, /livez, /readyz


def metric(node: Kubelet, name: str) -> float:
    """The value of the sample with this name and labels, or 0 if there is none."""
    status, text = page(node, "/metrics")
    assert status == 200
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_metrics_count_calls_links_sandboxes_and_vnis(cluster: Cluster) -> None:
    added = 'ratchet_cni_call_seconds_count{code="0",command="ADD"}'
    refused = 'ratchet_cni_call_seconds_count{code="107",command="ADD"}'
    before = {name: metric(cluster.a, name) for name in (added, refused, "ratchet_link_ready_seconds_count")}
    primary, _ = cluster.linked_pair()
    assert cluster.a.call("ADD", primary).status == 1
    assert metric(cluster.a, added) == before[added] + 1
    assert metric(cluster.a, refused) == before[refused] + 1
    assert metric(cluster.a, "ratchet_sandboxes") == 1
    assert metric(cluster.a, "ratchet_vnis_in_use") == 1
    assert metric(cluster.a, "ratchet_calls_in_progress") == 0
    wait_for("the link", lambda: metric(cluster.a, 'ratchet_links{state="linked"}') == 1)
    ready = "ratchet_link_ready_seconds_count"
    wait_for("its time", lambda: metric(cluster.a, ready) == before[ready] + 1)
    text = page(cluster.a, "/metrics")[1]
    assert "ratchet_build_info{" in text
    assert 'ratchet_api_requests_total{code="200",verb="GET"}' in text
    assert "process_resident_memory_bytes" in text
    assert "primary-pod" not in text  # names of pods are not labels


def test_livez_and_readyz_return_ok_and_other_paths_list_the_pages(cluster: Cluster) -> None:
    assert page(cluster.a, "/livez") == (200, "ok\n")
    wait_for("readiness", lambda: page(cluster.a, "/readyz") == (200, "ok\n"))
    assert page(cluster.a, "/readyz?verbose") == (200, "ok\n")
    status, text = page(cluster.a, "/")
    assert status == 404
    assert "/metrics" in text


def test_clients_of_the_metrics_port_do_not_delay_the_probes(cluster: Cluster) -> None:
    """Ninety-six clients send a request byte by byte. The kubelet would restart an agent that does not answer."""
    with ExitStack() as stack:
        for _ in range(96):
            client = stack.enter_context(closing(connect(cluster.a)))
            with suppress(ConnectionError):  # the agent closes connections of a client that has too many
                client.send(b"G")
        assert page(cluster.a, "/livez", HEALTH) == (200, "ok\n")
        assert page(cluster.a, "/readyz", HEALTH) == (200, "ok\n")
    wait_for("the metrics", lambda: answers(cluster.a))


def answers(node: Kubelet) -> bool:
    """Whether the metrics port has room for a client."""
    with suppress(OSError, HTTPException):
        return page(node, "/metrics")[0] == 200
    return False


def test_the_agent_is_not_ready_before_it_has_read_its_links(cluster: Cluster) -> None:
    agent = cluster.bed.agents["a"]
    agent.stop()
    gate = Gate()
    cluster.faults.add(Rule(sent_by(cluster.a, "GET", path="/configmaps?labelSelector"), before=gate, times=1000))
    agent.start()
    assert gate.reached.wait(20)
    assert page(cluster.a, "/livez")[0] == 200
    status, why = page(cluster.a, "/readyz")
    assert (status, why) == (503, "the node's links have not been read yet\n")
    gate.opened.set()
    wait_for("readiness", lambda: page(cluster.a, "/readyz")[0] == 200)


# Events and the readiness condition


def events(cluster: Cluster, pod: PodRef) -> list[tuple[str, str, str]]:
    """Type, reason and message of the Events of a pod."""
    found, _ = cluster.bed.api.list("/api/v1/namespaces/default/events")
    of_pod = [one for one in found if one["involvedObject"]["uid"] == pod.uid]
    assert all(one["source"]["component"] == "ratchet" for one in of_pod)
    return [(one["type"], one["reason"], one["message"]) for one in of_pod]


def wait_for_event(cluster: Cluster, pod: PodRef, kind: str, reason: str, *words: str) -> None:
    def has_event() -> bool:
        return any(
            (type_, why) == (kind, reason) and all(word in text for word in words)
            for type_, why, text in events(cluster, pod)
        )

    wait_for(f"the event {reason} of {pod.name}", has_event)


def test_a_pod_gets_events_as_its_link_changes(cluster: Cluster) -> None:
    primary = cluster.primary(cluster.a)
    assert cluster.a.add(primary).status == 0
    wait_for_event(cluster, primary.pod, "Normal", "WaitingForPeer", "in1", "pair-pod", "there is no such pod")
    pair = cluster.pair(cluster.b)
    assert cluster.b.add(pair).status == 0
    for pod, ifname in ((primary.pod, "in1"), (pair.pod, "in2")):
        wait_for_event(cluster, pod, "Normal", "Linked", ifname, "vxlan", "VNI")
    end_pods(cluster, (cluster.b, pair))
    wait_for_event(cluster, primary.pod, "Warning", "LinkLost", "in1", "pair-pod", "the sandbox was deleted")


def test_repeated_invalid_intent_is_one_event(cluster: Cluster) -> None:
    """The runtime repeats ADD. The metric of dropped Events counts the repeated Events."""
    wrong = cluster.pod("wrong", {**PRIMARY, "ratchet.local_ip": "not-an-address"}, cluster.a)
    dropped = metric(cluster.a, "ratchet_events_dropped_total")
    for _ in range(5):
        assert_refused(cluster.a.call("ADD", wrong), 101, "ratchet.local_ip")
    wait_for_event(cluster, wrong.pod, "Warning", "InvalidIntent", "ratchet.local_ip")
    assert metric(cluster.a, "ratchet_events_dropped_total") == dropped + 4
    assert len(events(cluster, wrong.pod)) == 1


def test_the_events_of_a_pod_are_limited(cluster: Cluster) -> None:
    """Each ADD fails with another message. The first labels are invalid too, so that no ADD succeeds."""
    dropped = metric(cluster.a, "ratchet_events_dropped_total")
    wrong = cluster.pod("wrong", {**PRIMARY, "ratchet.local_ip": "wrong"}, cluster.a)
    path = f"{cluster.bed.pods_path}/wrong"
    for number in range(30):
        labels = {**PRIMARY, "ratchet.local_ip": f"wrong-{number}"}
        cluster.bed.api.patch(path, {"metadata": {"labels": labels}})
        wait_for("the label", lambda at=number: f"wrong-{at}" in cluster.a.call("ADD", wrong).stdout)  # type: ignore[misc]
    wait_for("twenty", lambda: len(events(cluster, wrong.pod)) >= 20)
    assert len(events(cluster, wrong.pod)) <= 21
    assert metric(cluster.a, "ratchet_events_dropped_total") >= dropped + 9


def gated(cluster: Cluster, name: str, labels: dict[str, str], node: Kubelet) -> Sandbox:
    """A sandbox of a new pod with the readiness gate."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "none"}], "readinessGates": [{"conditionType": GATE}]},
    }
    created = cluster.bed.make(cluster.bed.pods_path, pod)
    cluster.bed.bind(name, node.host.name)
    return cluster.sandbox(node, PodRef("default", name, created["metadata"]["uid"]))


def condition(cluster: Cluster, pod: PodRef) -> tuple[str, str]:
    """Status and reason of a pod's condition `ratchet/linked`; empty strings if it has none."""
    status = cluster.bed.api.get(f"{cluster.bed.pods_path}/{pod.name}").get("status") or {}
    found = [(one["status"], one["reason"]) for one in status.get("conditions") or () if one["type"] == GATE]
    return found[0] if found else ("", "")


def wait_for_condition(cluster: Cluster, pod: PodRef, wanted: tuple[str, str]) -> None:
    wait_for(f"the condition {wanted} of {pod.name}", lambda: condition(cluster, pod) == wanted)


def test_a_pod_with_the_readiness_gate_is_ready_while_it_is_linked(cluster: Cluster) -> None:
    primary, pair = gated(cluster, "primary-pod", PRIMARY, cluster.a), cluster.pair(cluster.b)
    assert cluster.a.add(primary).status == 0
    wait_for_condition(cluster, primary.pod, ("False", "WaitingForPeer"))
    assert cluster.b.add(pair).status == 0
    wait_for_condition(cluster, primary.pod, ("True", "Linked"))
    end_pods(cluster, (cluster.b, pair))
    wait_for_condition(cluster, primary.pod, ("False", "WaitingForPeer"))
    again = gated(cluster, "pair-pod", PAIR, cluster.b)
    assert cluster.b.add(again).status == 0
    for pod in (primary.pod, again.pod):
        wait_for_condition(cluster, pod, ("True", "Linked"))


def test_a_pair_is_not_ready_before_a_pod_declares_its_link(cluster: Cluster) -> None:
    pair = gated(cluster, "pair-pod", PAIR, cluster.b)
    assert cluster.b.add(pair).status == 0
    wait_for_condition(cluster, pair.pod, ("False", "WaitingForPeer"))
    primary = cluster.primary(cluster.a)
    assert cluster.a.add(primary).status == 0
    wait_for_condition(cluster, pair.pod, ("True", "Linked"))
    assert condition(cluster, primary.pod) == ("", "")


def writes_to_path(cluster: Cluster) -> Callable[[str], int]:
    def count(path: str) -> int:
        return sum(sent.writes and path in sent.path for sent in cluster.faults.sent)

    return count


def test_agents_write_no_events_and_conditions_if_both_are_off() -> None:
    """Check after the agents have stopped, because Events are sent later, by a thread of their own."""
    with clean_cluster(agent={"events": False, "readiness": False}) as cluster:
        primary, pair = gated(cluster, "primary-pod", PRIMARY, cluster.a), cluster.pair(cluster.b)
        cluster.add_all((cluster.a, primary), (cluster.b, pair))
        cluster.wait_until(State.LINKED)
        end_pods(cluster, (cluster.a, primary), (cluster.b, pair))
        cluster.assert_nothing_left()
        for agent in cluster.bed.agents.values():
            agent.stop()  # sends the Events that are still queued
        assert writes_to_path(cluster)("/events") == 0
        assert writes_to_path(cluster)("/pods/primary-pod/status") == 0


def test_fault_05_a_del_that_began_before_add_removes_nothing(cluster: Cluster) -> None:
    """For example, a DEL from the spool that runs after the container ID was reused."""
    primary, _ = cluster.linked_pair()
    variables = {**cluster.a._variables("DEL", primary), "CNI_COMMAND": "DEL"}
    request = Request(
        {key: value for key, value in variables.items() if value}, json.dumps(PATIENT).encode(), began=0.001
    )
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(cluster.bed.agents["a"].socket))
        connection.sendall(encode_request(request))
        assert read_answer(connection.recv).status == 0
    assert cluster.pings(primary, "192.168.2.101")
    assert cluster.state() is State.LINKED
