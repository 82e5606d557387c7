"""Calls of the daemonless plugin as whole processes, compared with Debian's Go ptp + host-local.

Each round creates and removes a vEth, a tunnel and the network of a pod without labels. The same call of Go, in the
same namespace, follows each call of Ratchet. A process is started from within that namespace and timed from its start
until its end. In the network configuration, no plugin is before Ratchet, so the figures of linked pods are those of
links.

Run it as root: `python -m tests.bench.bench_plugin`.
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

from ratchet import datapath
from ratchet.core.model import State
from ratchet.core.pod import PodRef
from ratchet.dev.fake_kubelet import DEBIAN_PLUGINS, CniResponse, Kubelet, Sandbox, finished
from ratchet.dev.hosts import Host, netns_path
from ratchet.dev.testbed import Testbed, wait_for
from ratchet.errors import RatchetError
from tests.bench.rows import Report, Row, at_most, table
from tests.support.cluster import CHAINED, PAIR, PRIMARY, Cluster
from tests.support.faults import Faults, Rule, Sent, calling

ROUNDS = 9
GO = "Go ptp + host-local"
VETH, VXLAN, PLAIN = "vEth", "VXLAN", "unlabelled pod"


class EnteredHost(Host):
    """A node whose commands are started by a thread in its namespace, so that times include no nsenter(1)."""

    def command(self, *argv: str) -> list[str]:
        return list(argv)


@dataclass(frozen=True, slots=True)
class Cost:
    """The ms of a call: wall time, and CPU of the process and of the processes that it waited for."""

    wall: float
    cpu: float


@dataclass(slots=True)
class Comparison:
    """The costs of a call of Ratchet and of the same call of Go, alternately. The first of each does not count."""

    ours: list[Cost] = field(default_factory=list)
    theirs: list[Cost] = field(default_factory=list)

    def medians(self) -> tuple[float, float]:
        return _median(one.wall for one in self.ours[1:]), _median(one.wall for one in self.theirs[1:])

    def row(self, name: str, go: str) -> Row:
        ours, theirs = self.medians()
        return Row(name, ours / theirs, "ratio", f"{ours:.0f} ms; {go} {theirs:.1f} ms")

    def last(self) -> str:
        return f"{self.ours[-1].wall:.0f} ms (Go {self.theirs[-1].wall:.0f})"


@dataclass(slots=True)
class LinkRequests:
    """The nodes' requests for one link, during both pods' ADDs."""

    requests: int
    record_writes: int
    leases: int


@dataclass(slots=True)
class Bench:
    """Two nodes: `a` for all timed calls, `b` for the peers of tunnels. The last fields are figures."""

    cluster: Cluster
    go: Kubelet
    ours: Kubelet
    delegating: Kubelet
    pods: Mapping[str, tuple[PodRef, PodRef]]
    report: Report
    calls: dict[str, Comparison] = field(default_factory=lambda: defaultdict(Comparison))
    requests: dict[str, list[LinkRequests]] = field(default_factory=lambda: defaultdict(list))
    linked: list[float] = field(default_factory=list)
    _written: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Note when the API server has written a record, before the node gets the response."""
        noted = calling(lambda: self._written.append(time.perf_counter()))
        self.cluster.faults.add(Rule(self._writes_record, after=noted, times=sys.maxsize))

    def link(self, kind: str) -> None:
        """Measure the ADD that completes a link whose peer waits in a watch, and its DEL."""
        pod, peer = self.pods[kind]
        peer_node = self.cluster.a if kind == VETH else self.cluster.b
        peer_sandbox = peer_node.make_sandbox(peer)
        sandbox, go_sandbox = self.ours.make_sandbox(pod), self.go.make_sandbox(pod)
        self.cluster.faults.sent.clear()
        waiting = self.cluster.start("ADD", peer_node, peer_sandbox)
        wait_for("the peer's watch", lambda: any("watch=1" in sent.path for sent in self._sent()), 30.0)
        began = time.perf_counter()
        calls = self.calls[f"{kind} ADD"]
        calls.ours.append(timed_call(self.ours, "ADD", sandbox))
        peer_sandbox.result = succeeded("ADD of the peer", finished(waiting)).json
        if kind == VXLAN:
            self.linked.append((self._written[-1] - began) * 1e3)
        self.requests[kind].append(self._count_requests())
        self._check_linked()
        calls.theirs.append(timed_call(self.go, "ADD", go_sandbox))
        self._delete(kind, sandbox, go_sandbox)
        succeeded("DEL of the peer", peer_node.call("DEL", peer_sandbox))

    def plain(self) -> None:
        """Measure a pod without labels. Its delegate is the plugin that is called for comparison."""
        pod, _ = self.pods[PLAIN]
        sandbox, go_sandbox = self.delegating.make_sandbox(pod), self.go.make_sandbox(pod)
        calls = self.calls[f"{PLAIN} ADD"]
        calls.ours.append(timed_call(self.delegating, "ADD", sandbox))
        calls.theirs.append(timed_call(self.go, "ADD", go_sandbox))
        self._delete(PLAIN, sandbox, go_sandbox, self.delegating)

    def version(self) -> None:
        """Measure VERSION, which needs neither the API nor a sandbox."""
        calls = self.calls["VERSION"]
        calls.ours.append(_timed_version(self.ours))
        calls.theirs.append(_timed_version(self.go))

    def processes(self) -> dict[str, list[float]]:
        """The CPU in ms of Python alone, and with the imports of an ADD."""
        loaded, bin_dir = self.cluster.bed.folder / "loaded", self.cluster.bed.folder / "recording"
        _make_recording_launcher(self.ours.bin_dir, bin_dir, loaded)
        self._record_imports(replace(self.delegating, bin_dir=bin_dir))
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

    def _delete(self, kind: str, sandbox: Sandbox, go_sandbox: Sandbox, ours: Kubelet | None = None) -> None:
        calls = self.calls[f"{kind} DEL"]
        calls.ours.append(timed_call(ours or self.ours, "DEL", sandbox))
        calls.theirs.append(timed_call(self.go, "DEL", go_sandbox))
        number = f"{len(calls.ours) - 1}/{ROUNDS}"
        self.report(f"{kind} {number}: ADD {self.calls[f'{kind} ADD'].last()}, DEL {calls.last()}")

    def _record_imports(self, node: Kubelet) -> None:
        """Call ADD and DEL with a launcher that records its imports."""
        sandbox = node.make_sandbox(self.pods[PLAIN][0])
        timed_call(node, "ADD", sandbox)
        timed_call(node, "DEL", sandbox)

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
        """The cost of an ADD's own process."""
        alone, imports = (_median(processes[key]) for key in ("alone", "imports"))
        whole = _median(one.cpu for one in self.calls[f"{VETH} ADD"].ours[1:])
        an_add = f"an ADD that completes a vEth link {whole:.0f} ms"
        return [
            Row("process: CPU of an ADD's imports", imports - alone, "ms", f"Python without them {alone:.0f} ms"),
            Row("process: share of the imports in an ADD's CPU", (imports - alone) / whole * 100, "%", an_add),
        ]

    def _api_rows(self, kind: str, most_writes: int) -> list[Row]:
        """The most writes of all rounds, and the median of requests, whose number depends on the wait."""
        found = self.requests[kind]
        writes, leases = max(one.record_writes for one in found), max(one.leases for one in found)
        both = "of both pods' ADDs"
        rows = [
            Row(f"API: requests for a {kind} link", _median(one.requests for one in found[1:]), "requests", both),
            at_most(f"API: writes of a {kind} link's record", writes, "writes", most_writes),
        ]
        if kind == VXLAN:
            rows.append(at_most("API: Leases for a VXLAN link", leases, "Leases", 1))
        return rows

    def _check_linked(self) -> None:
        states = {name: self.cluster.state(name) for name in self.cluster.bed.links()}
        if set(states.values()) != {State.LINKED}:
            raise AssertionError(f"both ADDs succeeded, and the links are not linked: {states}")

    def _sent(self) -> list[Sent]:
        """The requests of the nodes."""
        return [sent for sent in self.cluster.faults.sent if self._from_node(sent)]

    def _count_requests(self) -> LinkRequests:
        sent = self._sent()
        writes = [one for one in sent if one.writes and one.status < 400]
        leases = [one for one in writes if "/leases" in one.path]
        return LinkRequests(len(sent), len(writes) - len(leases), len(leases))

    def _from_node(self, sent: Sent) -> bool:
        return sent.remote in (self.cluster.a.host.address, self.cluster.b.host.address)

    def _writes_record(self, sent: Sent) -> bool:
        return sent.writes and "/configmaps" in sent.path and self._from_node(sent)


def measure(report: Report = print, prefix: str | None = None) -> list[Row]:
    """Measure the plugin's calls. The figures are medians of ROUNDS rounds, after one that does not count."""
    report("two nodes, with the plugin installed")
    with _prepared(report, prefix) as bench:
        for _ in range(ROUNDS + 1):
            bench.version()
            bench.link(VETH)
            bench.link(VXLAN)
            bench.plain()
        report("measuring the imports of an ADD")
        rows = bench.rows(bench.processes())
        report("removing the nodes")
        return rows


@contextmanager
def _prepared(report: Report, prefix: str | None) -> Iterator[Bench]:
    faults = Faults()
    with ExitStack() as stack:
        bed = stack.enter_context(Testbed(prefix, middlewares=[faults.middleware]))
        cluster = Cluster(bed, faults)
        stack.callback(cluster.kill_running_calls)
        here = EnteredHost(cluster.a.host.name, cluster.a.host.netns, cluster.a.host.addresses)
        ours = replace(cluster.a, host=here)
        delegate = {key: value for key, value in ptp(bed.folder / "delegate").items() if key != "cniVersion"}
        delegating = replace(ours, config={**CHAINED, "delegate": delegate})
        go = replace(ours, bin_dir=go_plugin(bed.folder / "go"), config=ptp(bed.folder / "go-state"))
        yield Bench(cluster, go, ours, delegating, _pods(bed), report)


def _pods(bed: Testbed) -> dict[str, tuple[PodRef, PodRef]]:
    """The timed pod of each kind, on `a`, and its peer, which declares the link."""
    pods = {}
    for kind, peer_node in ((VETH, "a"), (VXLAN, "b")):
        name = kind.lower()
        peer = bed.create_pod(f"{name}-peer", {**PRIMARY, "ratchet.pair_name": f"{name}-pod"}, peer_node)
        pods[kind] = (bed.create_pod(f"{name}-pod", PAIR, "a"), peer)
    plain = bed.create_pod("plain-pod", {}, "a")
    return {**pods, PLAIN: (plain, plain)}


def ptp(data_dir: Path) -> dict[str, Any]:
    """A network of ptp + host-local, which keeps its addresses in `data_dir`."""
    ipam = {"type": "host-local", "subnet": "10.22.0.0/16", "dataDir": str(data_dir)}
    return {"cniVersion": CHAINED["cniVersion"], "name": data_dir.name, "type": "ptp", "ipam": ipam}


def go_plugin(bin_dir: Path, name: str = "ptp") -> Path:
    """Create a folder of plugins in which `ratchet` is Debian's plugin `name`, so that a kubelet calls that one."""
    for plugin in (name, "host-local"):
        if not (Path(DEBIAN_PLUGINS) / plugin).is_file():
            raise RatchetError(f"{DEBIAN_PLUGINS}/{plugin} is missing (Debian's containernetworking-plugins)")
    bin_dir.mkdir()
    (bin_dir / "ratchet").symlink_to(Path(DEBIAN_PLUGINS) / name)
    return bin_dir


def _make_recording_launcher(installed: Path, bin_dir: Path, loaded: Path) -> None:
    """Create a launcher that also writes the names of its loaded modules when it ends."""
    start = "from ratchet.node.plugin import run\n"
    record = f"""import os, sys

def leave(status, leave=os._exit):
    open({str(loaded)!r}, "w").write(" ".join(list(sys.modules)))
    leave(status)

os._exit = leave
"""
    body = (installed / "ratchet").read_text()
    if start not in body:
        raise AssertionError(f"the launcher in {installed} does not contain {start!r}")
    bin_dir.mkdir()
    launcher = bin_dir / "ratchet"
    launcher.write_text(body.replace(start, f"{record}{start}", 1))
    launcher.chmod(0o755)


def timed_call(node: Kubelet, command: str, sandbox: Sandbox) -> Cost:
    """Measure a call from within the node's namespace. Raises AssertionError if it fails."""
    with datapath.open_netns(netns_path(node.host.netns)) as netns, datapath.inside(netns):
        cpu, began = _cpu_of_children(), time.perf_counter()
        process = node.start(command, sandbox)
    answer = finished(process)
    cost = Cost((time.perf_counter() - began) * 1e3, _cpu_of_children() - cpu)
    succeeded(command, answer)
    if command == "ADD":
        sandbox.result = answer.json
    return cost


def _timed_version(node: Kubelet) -> Cost:
    """Measure VERSION. Go's may end before its stdin is written, because it does not read it."""
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
    cost = Cost((time.perf_counter() - began) * 1e3, _cpu_of_children() - cpu)
    succeeded("VERSION", CniResponse(done.returncode, done.stdout, done.stderr))
    return cost


def succeeded(what: str, answer: CniResponse) -> CniResponse:
    if answer.status != 0:
        raise AssertionError(f"{what} failed: {answer.stdout.strip()} {answer.stderr.strip()}")
    return answer


def _cpu_of_python(code: str, *arguments: str) -> float:
    """Run code in a process of Python. Returns its CPU in ms."""
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
