"""What a call of the plugin costs as a whole process, beside Debian's Go ptp + host-local called by the same code.

Every round makes a vEth, a tunnel and an unlabelled pod's network, and takes them down; after each of our calls comes
the same call of Go's, in the same node's namespace, so that both meet the same machine. The process is started from
within that namespace, and its time is from its start until its end; the runtime's own work is not in it. Linked pods
have the plugin behind nothing in a chain, so their figures are the links' alone.

Run it by its path, as root: `python tests/bench/bench_plugin.py`.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# The tests are no package; by its path, a script finds only its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet import datapath  # noqa: E402
from ratchet.core.model import State  # noqa: E402
from ratchet.core.pod import PodRef
from ratchet.dev.fake_kubelet import DEBIAN_PLUGINS, CniResponse, Kubelet, Sandbox, finished  # noqa: E402
from ratchet.dev.hosts import Host, netns_path  # noqa: E402
from ratchet.dev.testbed import Testbed, wait_for  # noqa: E402
from ratchet.errors import RatchetError  # noqa: E402
from tests.bench.rows import Row, Say, table  # noqa: E402
from tests.support.cluster import CHAINED, PAIR, PRIMARY, Cluster  # noqa: E402
from tests.support.faults import Faults, Rule, Sent, doing  # noqa: E402

ROUNDS = 9
GO = "Go ptp + host-local"
VETH, VXLAN, PLAIN = "vEth", "VXLAN", "unlabelled pod"


class Entered(Host):
    """A node whose commands are started by a thread that is in its namespace: no nsenter(1) is in the figures."""

    def command(self, *argv: str) -> list[str]:
        return list(argv)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a call took, in ms: wall time, and CPU of the process and those it waited for."""

    wall: float
    cpu: float


@dataclass(slots=True)
class Beside:
    """A call of ours and the same call of Go's, turn and turn about; the first of each does not count."""

    ours: list[Spent] = field(default_factory=list)
    theirs: list[Spent] = field(default_factory=list)

    def medians(self) -> tuple[float, float]:
        return _median(one.wall for one in self.ours[1:]), _median(one.wall for one in self.theirs[1:])

    def row(self, name: str, go: str) -> Row:
        ours, theirs = self.medians()
        return Row(name, ours / theirs, "ratio", f"{ours:.0f} ms; {go} {theirs:.1f} ms")

    def last(self) -> str:
        return f"{self.ours[-1].wall:.0f} ms (Go {self.theirs[-1].wall:.0f})"


@dataclass(slots=True)
class Asked:
    """What the nodes asked of the API for one link, from the first pod's ADD until both had ended."""

    requests: int
    record_writes: int
    leases: int


@dataclass(slots=True)
class Bench:
    """Two nodes, `a` for all that is timed and `b` for the peers of tunnels; what was found so far, by figure."""

    cluster: Cluster
    go: Kubelet
    ours: Kubelet
    delegating: Kubelet
    pods: Mapping[str, tuple[PodRef, PodRef]]
    say: Say
    calls: dict[str, Beside] = field(default_factory=lambda: defaultdict(Beside))
    asked: dict[str, list[Asked]] = field(default_factory=lambda: defaultdict(list))
    linked: list[float] = field(default_factory=list)
    _written: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Have the API note when it has written a record, before the node hears of it."""
        noted = doing(lambda: self._written.append(time.perf_counter()))
        self.cluster.faults.add(Rule(self._writes_record, after=noted, times=sys.maxsize))

    def link(self, kind: str) -> None:
        """A peer joins and waits in a watch; the ADD that completes the link is timed, and the DEL that cuts it."""
        pod, peer = self.pods[kind]
        peer_node = self.cluster.a if kind == VETH else self.cluster.b
        peer_sandbox = peer_node.make_sandbox(peer)
        sandbox, beside = self.ours.make_sandbox(pod), self.go.make_sandbox(pod)
        self.cluster.faults.sent.clear()
        waiting = self.cluster.start("ADD", peer_node, peer_sandbox)
        wait_for("the peer's watch", lambda: any("watch=1" in sent.path for sent in self._sent()), 30.0)
        began = time.perf_counter()
        calls = self.calls[f"{kind} ADD"]
        calls.ours.append(spent(self.ours, "ADD", sandbox))
        peer_sandbox.result = succeeded("ADD of the peer", finished(waiting)).json
        if kind == VXLAN:
            self.linked.append((self._written[-1] - began) * 1e3)
        self.asked[kind].append(self._asked())
        self._check_linked()
        calls.theirs.append(spent(self.go, "ADD", beside))
        self._delete(kind, sandbox, beside)
        succeeded("DEL of the peer", peer_node.call("DEL", peer_sandbox))

    def plain(self) -> None:
        """An unlabelled pod, whose network is its delegate's, which is the one that is called beside."""
        pod, _ = self.pods[PLAIN]
        sandbox, beside = self.delegating.make_sandbox(pod), self.go.make_sandbox(pod)
        calls = self.calls[f"{PLAIN} ADD"]
        calls.ours.append(spent(self.delegating, "ADD", sandbox))
        calls.theirs.append(spent(self.go, "ADD", beside))
        self._delete(PLAIN, sandbox, beside, self.delegating)

    def version(self) -> None:
        """VERSION, which needs no API and no sandbox: what it takes to start."""
        calls = self.calls["VERSION"]
        calls.ours.append(_spent_on_version(self.ours))
        calls.theirs.append(_spent_on_version(self.go))

    def processes(self) -> dict[str, list[float]]:
        """CPU in ms of Python alone, and of one that imports what an ADD has loaded by its end."""
        loaded, bin_dir = self.cluster.bed.folder / "loaded", self.cluster.bed.folder / "telling"
        _make_telling(self.ours.bin_dir, bin_dir, loaded)
        self._told_by(replace(self.delegating, bin_dir=bin_dir))
        importing = (
            "import contextlib, importlib, os, sys\n"
            "for name in open(sys.argv[1]).read().split():\n"
            "    with contextlib.suppress(ImportError):\n"
            "        importlib.import_module(name)\n"
        )
        codes = {"alone": "pass", "imports": f"{importing}os._exit(0)\n"}
        rounds = [{key: _cpu_of_python(code, str(loaded)) for key, code in codes.items()} for _ in range(ROUNDS)]
        return {key: [one[key] for one in rounds] for key in codes}

    def rows(self, processes: Mapping[str, Sequence[float]]) -> list[Row]:
        names = {
            f"{VETH} ADD": "ADD that completes a vEth link",
            f"{VXLAN} ADD": "ADD that completes a VXLAN link",
            f"{VETH} DEL": "DEL of a pod linked by vEth",
            f"{VXLAN} DEL": "DEL of a pod linked by VXLAN",
            f"{PLAIN} ADD": "ADD of an unlabelled pod with its delegate",
            f"{PLAIN} DEL": "DEL of an unlabelled pod with its delegate",
        }
        rows = [self.calls[key].row(name, f"{GO} {key[-3:]}") for key, name in names.items()]
        rows += [self._own_part(), self._linked_row(), self.calls["VERSION"].row("VERSION", "Go ptp VERSION")]
        return [*rows, *self._process_rows(processes), *self._api_rows(VETH, 3), *self._api_rows(VXLAN, 4)]

    def _delete(self, kind: str, sandbox: Sandbox, beside: Sandbox, ours: Kubelet | None = None) -> None:
        calls = self.calls[f"{kind} DEL"]
        calls.ours.append(spent(ours or self.ours, "DEL", sandbox))
        calls.theirs.append(spent(self.go, "DEL", beside))
        number = f"{len(calls.ours) - 1}/{ROUNDS}"
        self.say(f"{kind} {number}: ADD {self.calls[f'{kind} ADD'].last()}, DEL {calls.last()}")

    def _told_by(self, node: Kubelet) -> None:
        """ADD and DEL by a launcher that tells what it has loaded."""
        sandbox = node.make_sandbox(self.pods[PLAIN][0])
        spent(node, "ADD", sandbox)
        spent(node, "DEL", sandbox)

    def _own_part(self) -> Row:
        calls = self.calls[f"{PLAIN} ADD"]
        parts = [ours.wall - go.wall for ours, go in zip(calls.ours[1:], calls.theirs[1:], strict=True)]
        delegate = f"its delegate alone {calls.medians()[1]:.1f} ms"
        return Row("ADD of an unlabelled pod less its delegate", _median(parts), "ms", delegate)

    def _linked_row(self) -> Row:
        whole, _ = self.calls[f"{VXLAN} ADD"].medians()
        name = "VXLAN: second pod's ADD until both ends linked"
        return Row(name, _median(self.linked[1:]), "ms", f"that ADD until its end {whole:.0f} ms")

    def _process_rows(self, processes: Mapping[str, Sequence[float]]) -> list[Row]:
        """What an ADD pays for being a process of its own, whatever it then does."""
        alone, imports = (_median(processes[key]) for key in ("alone", "imports"))
        whole = _median(one.cpu for one in self.calls[f"{VETH} ADD"].ours[1:])
        an_add = f"an ADD that completes a vEth link {whole:.0f} ms"
        return [
            Row("process: CPU of an ADD's imports", imports - alone, "ms", f"Python without them {alone:.0f} ms"),
            Row("process: their share of an ADD's CPU", (imports - alone) / whole * 100, "%", an_add),
        ]

    def _api_rows(self, kind: str, most_writes: int) -> list[Row]:
        """The most of all rounds against the bars; requests, which waiting adds to, in the middle."""
        asked = self.asked[kind]
        writes, leases = max(one.record_writes for one in asked), max(one.leases for one in asked)
        bar, peer = f"<= {most_writes}", "of both pods' ADDs"
        rows = [
            Row(f"API: requests for a {kind} link", _median(one.requests for one in asked[1:]), "requests", peer),
            Row(f"API: writes of a {kind} link's record", writes, "writes", "", bar, writes <= most_writes),
        ]
        if kind == VXLAN:
            rows.append(Row("API: Leases for a VXLAN link", leases, "Leases", "", "<= 1", leases <= 1))
        return rows

    def _check_linked(self) -> None:
        states = {name: self.cluster.state(name) for name in self.cluster.bed.links()}
        if set(states.values()) != {State.LINKED}:
            raise AssertionError(f"both ADDs ended well, and yet: {states}")

    def _sent(self) -> list[Sent]:
        """What came from the nodes."""
        return [sent for sent in self.cluster.faults.sent if self._from_node(sent)]

    def _asked(self) -> Asked:
        sent = self._sent()
        writes = [one for one in sent if one.writes and one.status < 400]
        leases = [one for one in writes if "/leases" in one.path]
        return Asked(len(sent), len(writes) - len(leases), len(leases))

    def _from_node(self, sent: Sent) -> bool:
        return sent.remote in (self.cluster.a.host.address, self.cluster.b.host.address)

    def _writes_record(self, sent: Sent) -> bool:
        return sent.writes and "/configmaps" in sent.path and self._from_node(sent)


def measure(say: Say = print, prefix: str | None = None) -> list[Row]:
    """All figures of the plugin's calls: medians of ROUNDS rounds, after one that does not count."""
    say("two nodes, with the plugin installed")
    with _prepared(say, prefix) as bench:
        for _ in range(ROUNDS + 1):
            bench.version()
            bench.link(VETH)
            bench.link(VXLAN)
            bench.plain()
        say("the imports of an ADD, alone")
        rows = bench.rows(bench.processes())
        say("the nodes go")
        return rows


@contextmanager
def _prepared(say: Say, prefix: str | None) -> Iterator[Bench]:
    faults = Faults()
    with ExitStack() as stack:
        bed = stack.enter_context(Testbed(prefix, middlewares=[faults.middleware]))
        cluster = Cluster(bed, faults)
        stack.callback(cluster.stop_what_runs)
        here = Entered(cluster.a.host.name, cluster.a.host.netns, cluster.a.host.addresses)
        ours = replace(cluster.a, host=here)
        delegate = {key: value for key, value in ptp(bed.folder / "delegate").items() if key != "cniVersion"}
        delegating = replace(ours, config={**CHAINED, "delegate": delegate})
        go = replace(ours, bin_dir=go_plugin(bed.folder / "go"), config=ptp(bed.folder / "beside"))
        yield Bench(cluster, go, ours, delegating, _pods(bed), say)


def _pods(bed: Testbed) -> dict[str, tuple[PodRef, PodRef]]:
    """For each kind the pod that is timed, on `a`, and its peer, which declares the link."""
    pods = {}
    for kind, peer_node in ((VETH, "a"), (VXLAN, "b")):
        name = kind.lower()
        peer = bed.create_pod(f"{name}-peer", {**PRIMARY, "ratchet.pair_name": f"{name}-pod"}, peer_node)
        pods[kind] = (bed.create_pod(f"{name}-pod", PAIR, "a"), peer)
    plain = bed.create_pod("plain-pod", {}, "a")
    return {**pods, PLAIN: (plain, plain)}


def ptp(data_dir: Path) -> dict[str, Any]:
    """A network of ptp + host-local, which keeps its addresses in a folder of the bench's own."""
    ipam = {"type": "host-local", "subnet": "10.22.0.0/16", "dataDir": str(data_dir)}
    return {"cniVersion": CHAINED["cniVersion"], "name": data_dir.name, "type": "ptp", "ipam": ipam}


def go_plugin(bin_dir: Path, name: str = "ptp") -> Path:
    """A folder in which the plugin that a kubelet calls is Debian's `name`, so that the same code calls it and ours."""
    for plugin in (name, "host-local"):
        if not (Path(DEBIAN_PLUGINS) / plugin).is_file():
            raise RatchetError(f"{DEBIAN_PLUGINS}/{plugin} is missing (Debian's containernetworking-plugins)")
    bin_dir.mkdir()
    (bin_dir / "ratchet").symlink_to(Path(DEBIAN_PLUGINS) / name)
    return bin_dir


def _make_telling(installed: Path, bin_dir: Path, loaded: Path) -> None:
    """A launcher as the installed one, which also writes the names of the modules it has loaded when it ends."""
    start = "from ratchet.node.plugin import run\n"
    tell = f"""import os, sys

def leave(status, leave=os._exit):
    open({str(loaded)!r}, "w").write(" ".join(list(sys.modules)))
    leave(status)

os._exit = leave
"""
    body = (installed / "ratchet").read_text()
    if start not in body:
        raise AssertionError(f"the launcher in {installed} is not as this bench knows it")
    bin_dir.mkdir()
    launcher = bin_dir / "ratchet"
    launcher.write_text(body.replace(start, f"{tell}{start}", 1))
    launcher.chmod(0o755)


def spent(node: Kubelet, command: str, sandbox: Sandbox) -> Spent:
    """A call from within the node's namespace, from the start of its process until its end. It has to succeed."""
    with datapath.open_netns(netns_path(node.host.netns)) as netns, datapath.inside(netns):
        cpu, began = _cpu_of_children(), time.perf_counter()
        process = node.start(command, sandbox)
    answer = finished(process)
    took = Spent((time.perf_counter() - began) * 1e3, _cpu_of_children() - cpu)
    succeeded(command, answer)
    if command == "ADD":
        sandbox.result = answer.json
    return took


def _spent_on_version(node: Kubelet) -> Spent:
    """VERSION, wherever it is called; Go's may be over before it is given its stdin, which it does not read."""
    variables = {**os.environ, "CNI_COMMAND": "VERSION"}
    cpu, began = _cpu_of_children(), time.perf_counter()
    done = subprocess.run(
        [str(node.bin_dir / "ratchet")],
        env=variables,
        input=json.dumps(node.config),
        text=True,
        check=False,
        capture_output=True,
    )
    took = Spent((time.perf_counter() - began) * 1e3, _cpu_of_children() - cpu)
    succeeded("VERSION", CniResponse(done.returncode, done.stdout, done.stderr))
    return took


def succeeded(what: str, answer: CniResponse) -> CniResponse:
    if answer.status != 0:
        raise AssertionError(f"{what} failed: {answer.stdout.strip()} {answer.stderr.strip()}")
    return answer


def _cpu_of_python(code: str, *arguments: str) -> float:
    """CPU in ms of a process of Python that runs this code."""
    before = _cpu_of_children()
    subprocess.run([sys.executable, "-I", "-c", code, *arguments], check=True, capture_output=True)
    return _cpu_of_children() - before


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1e3


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    print(table(measure()))
