"""Calls that the node agent serves, compared with calls of Debian's Go plugins.

Each round creates and removes a vEth, a tunnel and the network of a pod without labels. A call of Go follows each call
of Ratchet. A pod's peer has joined before. A pause before each call lets background work end. Times are those of whole
processes. In the network configuration, no plugin is before Ratchet, so the figures of linked pods are those of links.

The time of the API is traced by the agents (traced_agent.py): from the request until the response begins, in the
thread that serves the call. RATCHET_BENCH_KUBECONFIG names the kubeconfig of another API server.

Run it as root: `python -m tests.bench.bench_agent`.
"""

from __future__ import annotations

import json
import math
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ratchet import datapath
from ratchet.agent.frame import Reply, encode_answer
from ratchet.core.kinds import Wiring
from ratchet.core.naming import record_name
from ratchet.core.pod import PodRef
from ratchet.core.sandbox import Location
from ratchet.dev.fake_kubelet import Sandbox
from ratchet.dev.testbed import Testbed, wait_for
from tests.bench.bench_plugin import GO, go_plugin, ptp
from tests.bench.nodes import (
    CONCURRENCY,
    KUBECONFIG,
    LinkWatch,
    Node,
    Runtime,
    TimedCall,
    add_namespaces,
    run_concurrently,
    sandbox_in,
    two_nodes,
    wiring_label,
)
from tests.bench.profiles import Profile
from tests.bench.rows import Report, Row, at_most, table
from tests.support.cluster import PAIR, PATIENT, PRIMARY

ROUNDS, SHIM_ROUNDS, TUNNELS, PROFILED = 30, 150, 100, 40
BATCHES, BATCH = 3, 64
REPORT_SECONDS = 2.0
# The pause before a call. Background work of the agent and of the API server ends in that time.
PAUSE_SECONDS = 0.03
VETH, VXLAN, PLAIN = "vEth", "VXLAN", "unlabelled pod"


@dataclass(slots=True)
class Comparison:
    """The ms of a call of Ratchet and of the same call of Go, alternately. The first of each does not count."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def medians(self) -> tuple[float, float]:
        return statistics.median(self.ours[1:]), statistics.median(self.theirs[1:])

    def row(self, name: str, go: str, target: float) -> Row:
        ours, theirs = self.medians()
        return at_most(name, ours / theirs, "ratio", target, f"{ours:.2f} ms; {go} {theirs:.2f} ms")


@dataclass(frozen=True, slots=True)
class LinkWrites:
    """The agents' writes to the API for one link, from the first pod's ADD until it is linked."""

    record: int
    leases: int


@dataclass(slots=True)
class Bench:
    """Two nodes: `a` for all timed calls, `b` for the peers of tunnels. The other fields are figures."""

    bed: Testbed
    a: Node
    b: Node
    go: Runtime
    delegating: Runtime
    watch: LinkWatch
    report: Report
    calls: dict[str, Comparison] = field(default_factory=lambda: defaultdict(Comparison))
    own: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    writes: dict[str, list[LinkWrites]] = field(default_factory=lambda: defaultdict(list))
    linked: list[float] = field(default_factory=list)
    usable: list[float] = field(default_factory=list)
    reported_at: float = 0.0
    rates: dict[str, Comparison] = field(default_factory=lambda: defaultdict(Comparison))

    def veth(self, number: int, pair: Pair) -> None:
        """Measure the ADD that completes a vEth and its DEL, and those of Go."""
        peer, pod, link = pair.joined(self.a), pair.pod_sandbox(), pair.link
        pause()
        done = self.a.runtime.timed("ADD", pod)
        waited = self._waited_for_api(done)
        ended = self.watch.wait(link)
        self.own.append(done.ms - waited)
        self.waited.append(waited)
        self._compare(f"{VETH} ADD", done, self._go("ADD", pair.go_sandbox()))
        self._note_writes(VETH, pair, ended)
        pause()
        self._compare(f"{VETH} DEL", self.a.runtime.timed("DEL", pod), self._go("DEL", pair.go_sandbox()))
        self.a.runtime.timed("DEL", peer)
        self._report_rarely(
            f"vEth {number}/{ROUNDS}: ADD {self._last(f'{VETH} ADD')}, DEL {self._last(f'{VETH} DEL')}; "
            f"{PLAIN}: ADD {self._last(f'{PLAIN} ADD')}"
        )

    def tunnel(self, number: int, pair: Pair) -> None:
        """Measure a tunnel from the ADD on `a` until the record is linked, and until both pods have carrier."""
        peer, pod, link = pair.joined(self.b), pair.pod_sandbox(), pair.link
        pause()
        done = self.a.runtime.timed("ADD", pod)
        ended = self.watch.wait(link)
        self.linked.append((ended - done.began) * 1e3)
        wait_for("the carrier", lambda: has_carrier(pod, "in2") and has_carrier(peer, "in1"))
        self.usable.append((time.monotonic() - done.began) * 1e3)
        self._note_writes(VXLAN, pair, ended)
        self.a.runtime.timed("DEL", pod)
        self.b.runtime.timed("DEL", peer)
        self._report_rarely(f"VXLAN {number}/{TUNNELS}: linked after {self.linked[-1]:.1f} ms")

    def plain(self, pair: Pair, pod: PodRef) -> None:
        """Measure a pod without labels. Its delegate is the plugin that is called for comparison."""
        sandbox = sandbox_in(pair.far, pod)
        for command in ("ADD", "DEL"):
            pause()
            done = self.delegating.timed(command, sandbox)
            self._compare(f"{PLAIN} {command}", done, self._go(command, pair.go_sandbox()))

    def at_once(self, number: int, pairs: Sequence[Pair], pods: Sequence[PodRef]) -> None:
        """Measure ADDs per second: those that complete a vEth, those of pods without labels, and Go's after each."""
        peers = run_concurrently(lambda pair: pair.joined(self.a), pairs)[0]
        linked = [pair.pod_sandbox() for pair in pairs]
        plain = [sandbox_in(pair.near, pod) for pair, pod in zip(pairs, pods, strict=True)]
        for kind, ours, sandboxes in ((VETH, self.a.runtime, linked), (PLAIN, self.delegating, plain)):
            pause(10)
            rate = self.rates[kind]
            rate.ours.append(adds_per_second(ours, sandboxes))
            delete_concurrently(ours, sandboxes)
            pause(10)
            sandboxes = [pair.new_go_sandbox() for pair in pairs]
            rate.theirs.append(adds_per_second(self.go, sandboxes))
            delete_concurrently(self.go, sandboxes)
            self.report(
                f"{CONCURRENCY} at once, {kind} {number}/{BATCHES}: "
                f"{rate.ours[-1]:.0f} ADDs per second (Go {rate.theirs[-1]:.0f})"
            )
        delete_concurrently(self.a.runtime, peers)

    def profiled(self, pairs: Sequence[Pair]) -> None:
        """Profile calls that complete a vEth. They are not timed."""
        flag = self.a.trace_file("profiling")
        for number in range(PROFILED):
            pair = pairs[number % len(pairs)]
            peer, pod = pair.joined(self.a), pair.pod_sandbox()
            pause()
            flag.touch()
            self.a.runtime.timed("ADD", pod)
            flag.unlink()
            for sandbox in (pod, peer):
                self.a.runtime.timed("DEL", sandbox)

    def shim(self) -> None:
        """Measure the shim with a server that answers at once, compared with Go's loopback."""
        netns = add_namespaces(self.bed.hosts, "loopback")[0]
        sandbox = sandbox_in(netns, PodRef("default", "loopback", "0"))
        loopback = Runtime.like(
            self.go,
            bin_dir=go_plugin(self.bed.folder / "go-loopback", "loopback"),
            config={"cniVersion": "1.0.0", "name": "lo", "type": "loopback"},
        )
        with trivial_server(self.bed.folder / "trivial.sock") as path:
            alone = Runtime.like(self.a.runtime, environment={"RATCHET_AGENT_SOCKET": str(path), "RATCHET_PANEL": ""})
            for _ in range(SHIM_ROUNDS):
                theirs = loopback.timed("ADD", sandbox)
                self._compare("shim", alone.timed("VERSION"), theirs)
        self.report("shim: {:.2f} ms (Go loopback {:.2f})".format(*self.calls["shim"].medians()))

    def rows(self) -> list[Row]:
        calls, go_add, go_del = self.calls, f"{GO} ADD", f"{GO} DEL"
        plain = calls[f"{PLAIN} ADD"]
        parts = [ours - theirs for ours, theirs in zip(plain.ours[1:], plain.theirs[1:], strict=True)]
        own, waited = statistics.median(self.own[1:]), statistics.median(self.waited[1:])
        waiting = f"not included: {waited:.2f} ms of waiting for the API"
        delegate = f"its delegate alone {plain.medians()[1]:.2f} ms"
        return [
            calls["shim"].row("agent: shim's round trip, answered at once", "Go loopback ADD", 0.5),
            at_most("agent: ADD of an unlabelled pod less its delegate", statistics.median(parts), "ms", 2, delegate),
            at_most("agent: ADD that completes a vEth link, less API", own, "ms", 3, waiting),
            calls[f"{VETH} ADD"].row("agent: ADD that completes a vEth link, with API", go_add, 1),
            calls[f"{VETH} DEL"].row("agent: DEL of a pod linked by vEth", go_del, 1),
            self._rate(VETH, "ADDs that complete a vEth link", target=1.0),
            # Each of them also runs Go's plugin, so this ratio is less than 1.
            self._rate(PLAIN, "ADDs of unlabelled pods"),
            *self._linked_rows(),
            *self._writes_rows(),
        ]

    def _rate(self, kind: str, name: str, target: float | None = None) -> Row:
        ours, theirs = self.rates[kind].medians()
        ratio = ours / theirs
        row = Row(f"agent: {name}, {CONCURRENCY} at once", ratio, "ratio", f"{ours:.0f} per second; {GO} {theirs:.0f}")
        return row if target is None else replace(row, target=f">= {target:g}", met=ratio >= target)

    def _linked_rows(self) -> list[Row]:
        name = "agent: VXLAN, second pod's ADD until both ends linked"
        rows = []
        for percent, target in ((50, 20), (99, 60)):
            text = (
                f"{len(self.linked) - 1} links; until both have carrier {percentile(self.usable[1:], percent):.0f} ms"
            )
            rows.append(at_most(f"{name}, p{percent}", percentile(self.linked[1:], percent), "ms", target, text))
        return rows

    def _writes_rows(self) -> list[Row]:
        """The most writes of all rounds."""
        rows = []
        for kind, most in ((VETH, 2), (VXLAN, 3)):
            writes = max(one.record for one in self.writes[kind])
            rows.append(at_most(f"agent: API writes of a {kind} link's record", writes, "writes", most))
        leases = max(one.leases for one in self.writes[VXLAN])
        return [*rows, at_most("agent: Leases for a VXLAN link's number", leases, "Leases", 1)]

    def _report_rarely(self, line: str) -> None:
        if time.monotonic() - self.reported_at > REPORT_SECONDS:
            self.reported_at = time.monotonic()
            self.report(line)

    def _go(self, command: str, sandbox: Sandbox) -> TimedCall:
        pause()
        return self.go.timed(command, sandbox)

    def _compare(self, name: str, ours: TimedCall, theirs: TimedCall) -> None:
        self.calls[name].ours.append(ours.ms)
        self.calls[name].theirs.append(theirs.ms)

    def _last(self, name: str) -> str:
        return f"{self.calls[name].ours[-1]:.1f} ms (Go {self.calls[name].theirs[-1]:.1f})"

    def _waited_for_api(self, done: TimedCall) -> float:
        """The ms for which the thread that served a call waited for responses of the API."""
        requests = self.a.requests(done.began, done.ended)
        return sum((one.answered - one.sent) * 1e3 for one in requests if one.thread.startswith("call"))

    def _note_writes(self, kind: str, pair: Pair, until: float) -> None:
        """Count the writes of both agents for a link. bench_topologies.py counts Events."""
        pause()
        writes = [one for node in (self.a, self.b) for one in node.requests(pair.began) if one.writes]
        record = [one for one in writes if "/configmaps" in one.path and one.sent <= until]
        leases = [one for one in writes if "/leases" in one.path and "/leases/node-" not in one.path]
        self.writes[kind].append(LinkWrites(len(record), len(leases)))


@dataclass(slots=True)
class Pair:
    """Two pods of one link, and the namespaces of their sandboxes."""

    primary: PodRef
    pair: PodRef
    far: str
    near: str
    began: float = 0.0
    _go_sandbox: Sandbox | None = None

    @property
    def link(self) -> str:
        return record_name(self.primary.namespace, (self.primary.name, "in1"), (self.pair.name, "in2"))

    def joined(self, node: Node) -> Sandbox:
        """Call ADD for the primary, which then waits for its pair. Returns its sandbox."""
        sandbox = sandbox_in(self.far, self.primary)
        self.began = node.runtime.timed("ADD", sandbox).began
        return sandbox

    def pod_sandbox(self) -> Sandbox:
        return sandbox_in(self.near, self.pair)

    def new_go_sandbox(self) -> Sandbox:
        """A new sandbox for Go's ADD."""
        self._go_sandbox = sandbox_in(self.near, self.pair)
        return self._go_sandbox

    def go_sandbox(self) -> Sandbox:
        """A new sandbox for Go's ADD; the same one for the DEL that follows."""
        if self._go_sandbox is None:
            return self.new_go_sandbox()
        sandbox, self._go_sandbox = self._go_sandbox, None
        return sandbox


def measure(report: Report = print, prefix: str | None = None) -> tuple[list[Row], Profile]:
    """Measure calls that an agent serves, and profile an ADD that completes a vEth link."""
    report(f"two nodes, each with an agent; API server: {KUBECONFIG or 'a process of its own'}")
    with _prepared(report, prefix) as bench:
        bench.shim()
        plain = [bench.bed.create_pod(f"plain-{number}", {}, "a") for number in range(BATCH)]
        veths = pairs_of(bench.bed, VETH, BATCH, "a")
        tunnels = pairs_of(bench.bed, VXLAN, 8, "b")
        pause(30)
        for number in range(ROUNDS + 1):
            bench.plain(veths[number % len(veths)], plain[0])
            bench.veth(number, veths[number % len(veths)])
        for number in range(TUNNELS + 1):
            bench.tunnel(number, tunnels[number % len(tunnels)])
        for number in range(BATCHES + 1):
            bench.at_once(number, veths, plain)
        report("profiling an ADD that completes a vEth link")
        bench.profiled(veths)
        bench.a.agent.stop()
        report("removing the nodes")
        return bench.rows(), Profile.read(bench.a.trace_file("profile"))


@contextmanager
def _prepared(report: Report, prefix: str | None) -> Iterator[Bench]:
    with two_nodes(prefix, KUBECONFIG) as (bed, a, b):
        delegate = {key: value for key, value in ptp(bed.folder / "delegate").items() if key != "cniVersion"}
        delegating = Runtime.like(a.runtime, config={**PATIENT, "delegate": delegate})
        go = Runtime.like(a.runtime, bin_dir=go_plugin(bed.folder / "go"), config=ptp(bed.folder / "go-state"))
        yield Bench(bed, a, b, go, delegating, LinkWatch(bed), report)


def pairs_of(bed: Testbed, kind: str, number: int, node_of_primary: str, wiring: Wiring = Wiring.DIRECT) -> list[Pair]:
    """Create pairs of pods. The second of each pair is on `a`."""
    labels = {**PRIMARY, **wiring_label(wiring)}
    names = [f"{kind.lower()}-{index}" for index in range(number)]
    netns = add_namespaces(bed.hosts, *(f"{name}-{end}" for name in names for end in ("p", "q")))
    pairs = []
    for index, name in enumerate(names):
        primary = bed.create_pod(f"{name}-p", {**labels, "ratchet.pair_name": f"{name}-q"}, node_of_primary)
        pair = bed.create_pod(f"{name}-q", PAIR, "a")
        pairs.append(Pair(primary, pair, netns[2 * index], netns[2 * index + 1]))
    return pairs


@contextmanager
def trivial_server(path: Path) -> Iterator[Path]:
    """Run a process that answers every call at a socket with the same reply."""
    answer = encode_answer(Reply(0, json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}).encode()))
    code = (
        "import socket, sys\n"
        "listener = socket.socket(fileno=int(sys.argv[1]))\n"
        "while True:\n"
        "    connection, _ = listener.accept()\n"
        "    connection.recv(65536)\n"
        "    connection.sendall(bytes.fromhex(sys.argv[2]))\n"
        "    connection.close()\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        argv = [sys.executable, "-I", "-c", code, str(listener.fileno()), answer.hex()]
        process = subprocess.Popen(argv, pass_fds=(listener.fileno(),))
    try:
        yield path
    finally:
        process.kill()
        process.wait()


def pause(times: int = 1) -> None:
    time.sleep(times * PAUSE_SECONDS)


def adds_per_second(runtime: Runtime, sandboxes: Sequence[Sandbox]) -> float:
    """Call ADD for all sandboxes. Returns ADDs per second."""
    return len(sandboxes) / run_concurrently(lambda one: runtime.timed("ADD", one), sandboxes)[1]


def delete_concurrently(runtime: Runtime, sandboxes: Sequence[Sandbox]) -> None:
    run_concurrently(lambda one: runtime.timed("DEL", one), sandboxes)


def has_carrier(sandbox: Sandbox, ifname: str) -> bool:
    device = datapath.observe_port(Location(sandbox.path), ifname)
    return device is not None and device.carrier


def percentile(values: Sequence[float], percent: int) -> float:
    """The least value that `percent` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


if __name__ == "__main__":
    found, profile = measure()
    print(table(found))
    print(profile.table())
