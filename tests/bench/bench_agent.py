"""What a call costs that the node agent serves, beside Debian's Go plugins called by the same code in the same minutes.

Every round makes a vEth, a tunnel and an unlabelled pod's network, and takes them down; after each of our calls comes
Go's. A pod's peer has joined before; before each call that is timed there is a pause in which what runs in the
background comes to rest. Time is a whole process's, from its start until its end. Linked pods have the plugin behind
nothing in a chain, so their figures are the links' alone.

Time of the API is told by the agents themselves (told_agent.py): from when a request was sent until its answer began,
in the thread that served the call. A real API server is used where RATCHET_BENCH_KUBECONFIG names a kubeconfig.

Run it by its path, as root: `python tests/bench/bench_agent.py`.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

# The tests are no package; by its path, a script finds only its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet import datapath  # noqa: E402
from ratchet.agent.frame import Reply, encode_answer  # noqa: E402
from ratchet.core.model import Location  # noqa: E402
from ratchet.core.naming import record_name  # noqa: E402
from ratchet.core.pod import PodRef  # noqa: E402
from ratchet.dev.fake_kubelet import Sandbox  # noqa: E402
from ratchet.dev.testbed import Testbed, wait_for  # noqa: E402
from tests.bench.bench_plugin import GO, go_plugin, ptp  # noqa: E402
from tests.bench.nodes import (  # noqa: E402
    AT_ONCE,
    KUBECONFIG,
    NODES,
    ApartBed,
    Done,
    Node,
    Runtime,
    Watching,
    add_namespaces,
    add_node,
    all_at_once,
    sandbox_in,
)
from tests.bench.profiles import Profile  # noqa: E402
from tests.bench.rows import Row, Say, at_most, table  # noqa: E402
from tests.support.cluster import PAIR, PATIENT, PRIMARY  # noqa: E402

ROUNDS, SHIM_ROUNDS, TUNNELS, PROFILED = 30, 150, 100, 40
BATCHES, BATCH = 3, 64
SAY_SECONDS = 2.0
# For what runs in the background, of us and of the API, to come to rest before a call is timed.
PAUSE_SECONDS = 0.03
VETH, VXLAN, PLAIN = "vEth", "VXLAN", "unlabelled pod"


@dataclass(slots=True)
class Beside:
    """A call of ours and the same call of Go's, turn and turn about, in ms; the first of each does not count."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def medians(self) -> tuple[float, float]:
        return statistics.median(self.ours[1:]), statistics.median(self.theirs[1:])

    def row(self, name: str, go: str, bar: float) -> Row:
        ours, theirs = self.medians()
        return at_most(name, ours / theirs, "ratio", bar, f"{ours:.2f} ms; {go} {theirs:.2f} ms")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the agents wrote to the API for one link, from the first pod's ADD until it was linked."""

    record: int
    leases: int


@dataclass(slots=True)
class Bench:
    """Two nodes, `a` for all that is timed and `b` for the peers of tunnels; what was found so far, by figure."""

    bed: Testbed
    a: Node
    b: Node
    go: Runtime
    delegating: Runtime
    watching: Watching
    say: Say
    calls: dict[str, Beside] = field(default_factory=lambda: defaultdict(Beside))
    own: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    asked: dict[str, list[Asked]] = field(default_factory=lambda: defaultdict(list))
    linked: list[float] = field(default_factory=list)
    usable: list[float] = field(default_factory=list)
    said: float = 0.0
    rates: dict[str, Beside] = field(default_factory=lambda: defaultdict(Beside))

    def veth(self, number: int, pair: Pair) -> None:
        """A vEth completed and cut, and as much of Go's."""
        peer, pod, link = pair.joined(self.a), pair.pod_sandbox(), pair.link
        rest()
        done = self.a.runtime.timed("ADD", pod)
        waited = self._waited_for_api(done)
        ended = self.watching.wait(link)
        self.own.append(done.ms - waited)
        self.waited.append(waited)
        self._beside(f"{VETH} ADD", done, self._go("ADD", pair.beside()))
        self._note_asked(VETH, pair, ended)
        rest()
        self._beside(f"{VETH} DEL", self.a.runtime.timed("DEL", pod), self._go("DEL", pair.beside()))
        self.a.runtime.timed("DEL", peer)
        self._now_and_then(
            f"vEth {number}/{ROUNDS}: ADD {self._last(f'{VETH} ADD')}, DEL {self._last(f'{VETH} DEL')}; "
            f"{PLAIN}: ADD {self._last(f'{PLAIN} ADD')}"
        )

    def tunnel(self, number: int, pair: Pair) -> None:
        """A tunnel completed by the ADD on `a`, until the record has both ends; and until the pod has carrier."""
        peer, pod, link = pair.joined(self.b), pair.pod_sandbox(), pair.link
        rest()
        done = self.a.runtime.timed("ADD", pod)
        ended = self.watching.wait(link)
        self.linked.append((ended - done.began) * 1e3)
        wait_for("the carrier", lambda: has_carrier(pod, "in2") and has_carrier(peer, "in1"))
        self.usable.append((time.monotonic() - done.began) * 1e3)
        self._note_asked(VXLAN, pair, ended)
        self.a.runtime.timed("DEL", pod)
        self.b.runtime.timed("DEL", peer)
        self._now_and_then(f"VXLAN {number}/{TUNNELS}: linked after {self.linked[-1]:.1f} ms")

    def plain(self, pair: Pair, pod: PodRef) -> None:
        """An unlabelled pod, whose network is its delegate's, which is the one that is called beside."""
        sandbox = sandbox_in(pair.far, pod)
        for command in ("ADD", "DEL"):
            rest()
            done = self.delegating.timed(command, sandbox)
            self._beside(f"{PLAIN} {command}", done, self._go(command, pair.beside()))

    def at_once(self, number: int, pairs: Sequence[Pair], pods: Sequence[PodRef]) -> None:
        """ADDs per second, AT_ONCE at once: of ours that complete a vEth, of unlabelled pods, and Go's after each."""
        peers = all_at_once(lambda pair: pair.joined(self.a), pairs)[0]
        linked = [pair.pod_sandbox() for pair in pairs]
        plain = [sandbox_in(pair.near, pod) for pair, pod in zip(pairs, pods, strict=True)]
        for kind, ours, sandboxes in ((VETH, self.a.runtime, linked), (PLAIN, self.delegating, plain)):
            rest(10)
            rate = self.rates[kind]
            rate.ours.append(added_at_once(ours, sandboxes))
            deleted_at_once(ours, sandboxes)
            rest(10)
            beside = [pair.new_beside() for pair in pairs]
            rate.theirs.append(added_at_once(self.go, beside))
            deleted_at_once(self.go, beside)
            self.say(
                f"{AT_ONCE} at once, {kind} {number}/{BATCHES}: "
                f"{rate.ours[-1]:.0f} ADDs a second (Go {rate.theirs[-1]:.0f})"
            )
        deleted_at_once(self.a.runtime, peers)

    def profiled(self, pairs: Sequence[Pair]) -> None:
        """Calls that complete a vEth, with the agent profiling itself; their time is of no use."""
        flag = self.a.beside_settings("profiling")
        for number in range(PROFILED):
            pair = pairs[number % len(pairs)]
            peer, pod = pair.joined(self.a), pair.pod_sandbox()
            rest()
            flag.touch()
            self.a.runtime.timed("ADD", pod)
            flag.unlink()
            for sandbox in (pod, peer):
                self.a.runtime.timed("DEL", sandbox)

    def shim(self) -> None:
        """The shim with nothing behind its socket that takes time, beside Go's loopback."""
        netns = add_namespaces(self.bed.hosts, "loopback")[0]
        sandbox = sandbox_in(netns, PodRef("default", "loopback", "0"))
        loopback = Runtime.like(
            self.go,
            bin_dir=go_plugin(self.bed.folder / "go-loopback", "loopback"),
            config={"cniVersion": "1.0.0", "name": "lo", "type": "loopback"},
        )
        with trivial_server(self.bed.folder / "trivial.sock") as path:
            alone = Runtime.like(self.a.runtime, environment={"RATCHET_AGENT_SOCKET": str(path)})
            for _ in range(SHIM_ROUNDS):
                theirs = loopback.timed("ADD", sandbox)
                self._beside("shim", alone.timed("VERSION"), theirs)
        self.say("shim: {:.2f} ms (Go loopback {:.2f})".format(*self.calls["shim"].medians()))

    def rows(self) -> list[Row]:
        calls, go_add, go_del = self.calls, f"{GO} ADD", f"{GO} DEL"
        plain = calls[f"{PLAIN} ADD"]
        parts = [ours - theirs for ours, theirs in zip(plain.ours[1:], plain.theirs[1:], strict=True)]
        own, waited = statistics.median(self.own[1:]), statistics.median(self.waited[1:])
        waiting = f"besides it {waited:.2f} ms of waiting for the API's answers"
        delegate = f"its delegate alone {plain.medians()[1]:.2f} ms"
        return [
            calls["shim"].row("agent: shim's round trip, answered at once", "Go loopback ADD", 0.5),
            at_most("agent: ADD of an unlabelled pod less its delegate", statistics.median(parts), "ms", 2, delegate),
            at_most("agent: ADD that completes a vEth link, less API", own, "ms", 3, waiting),
            calls[f"{VETH} ADD"].row("agent: ADD that completes a vEth link, all in", go_add, 1),
            calls[f"{VETH} DEL"].row("agent: DEL of a pod linked by vEth", go_del, 1),
            self._rate(VETH, "ADDs that complete a vEth link", bar=1.0),
            # Each of them runs Go's plugin too: beside that one alone it can only be less than 1.
            self._rate(PLAIN, "ADDs of unlabelled pods"),
            *self._linked_rows(),
            *self._asked_rows(),
        ]

    def _rate(self, kind: str, name: str, bar: float | None = None) -> Row:
        ours, theirs = self.rates[kind].medians()
        ratio = ours / theirs
        row = Row(f"agent: {name}, {AT_ONCE} at once", ratio, "ratio", f"{ours:.0f} a second; {GO} {theirs:.0f}")
        return row if bar is None else replace(row, bar=f">= {bar:g}", holds=ratio >= bar)

    def _linked_rows(self) -> list[Row]:
        name = "agent: VXLAN, second pod's ADD until both ends linked"
        rows = []
        for percent, bar in ((50, 20), (99, 60)):
            text = (
                f"{len(self.linked) - 1} links; until both have carrier {percentile(self.usable[1:], percent):.0f} ms"
            )
            rows.append(at_most(f"{name}, p{percent}", percentile(self.linked[1:], percent), "ms", bar, text))
        return rows

    def _asked_rows(self) -> list[Row]:
        """The most of all rounds against the bars."""
        rows = []
        for kind, most in ((VETH, 2), (VXLAN, 3)):
            asked = self.asked[kind]
            writes = max(one.record for one in asked)
            rows.append(at_most(f"agent: API writes of a {kind} link's record", writes, "writes", most))
        leases = max(one.leases for one in self.asked[VXLAN])
        return [*rows, at_most("agent: Leases for a VXLAN link's number", leases, "Leases", 1)]

    def _now_and_then(self, line: str) -> None:
        if time.monotonic() - self.said > SAY_SECONDS:
            self.said = time.monotonic()
            self.say(line)

    def _go(self, command: str, sandbox: Sandbox) -> Done:
        rest()
        return self.go.timed(command, sandbox)

    def _beside(self, name: str, ours: Done, theirs: Done) -> None:
        self.calls[name].ours.append(ours.ms)
        self.calls[name].theirs.append(theirs.ms)

    def _last(self, name: str) -> str:
        return f"{self.calls[name].ours[-1]:.1f} ms (Go {self.calls[name].theirs[-1]:.1f})"

    def _waited_for_api(self, done: Done) -> float:
        """For how many ms the thread that served a call waited for answers of the API."""
        requests = self.a.requests(done.began, done.ended)
        return sum((one.answered - one.sent) * 1e3 for one in requests if one.thread.startswith("call"))

    def _note_asked(self, kind: str, pair: Pair, until: float) -> None:
        """Count the writes of both agents for a link. Agents collect Events, which bench_topologies.py counts."""
        rest()
        writes = [one for node in (self.a, self.b) for one in node.requests(pair.began) if one.writes]
        record = [one for one in writes if "/configmaps" in one.path and one.sent <= until]
        leases = [one for one in writes if "/leases" in one.path and "/leases/node-" not in one.path]
        self.asked[kind].append(Asked(len(record), len(leases)))


@dataclass(slots=True)
class Pair:
    """Two pods of one link, and namespaces for their sandboxes, in which one is after the other."""

    primary: PodRef
    pair: PodRef
    far: str
    near: str
    began: float = 0.0
    _beside: Sandbox | None = None

    @property
    def link(self) -> str:
        return record_name(self.primary.namespace, (self.primary.name, "in1"), (self.pair.name, "in2"))

    def joined(self, node: Node) -> Sandbox:
        """A sandbox of the primary, which has joined and waits for its pair."""
        sandbox = sandbox_in(self.far, self.primary)
        self.began = node.runtime.timed("ADD", sandbox).began
        return sandbox

    def pod_sandbox(self) -> Sandbox:
        return sandbox_in(self.near, self.pair)

    def new_beside(self) -> Sandbox:
        """A sandbox for Go's call."""
        self._beside = sandbox_in(self.near, self.pair)
        return self._beside

    def beside(self) -> Sandbox:
        """The sandbox of Go's ADD, until its DEL."""
        if self._beside is None:
            return self.new_beside()
        sandbox, self._beside = self._beside, None
        return sandbox


def measure(say: Say = print, prefix: str | None = None) -> tuple[list[Row], Profile]:
    """All figures of calls that an agent serves; and the profile of an ADD that completes a vEth link."""
    say(f"two nodes, each with an agent; the API is {KUBECONFIG or 'a process of its own'}")
    with _prepared(say, prefix) as bench:
        bench.shim()
        plain = [bench.bed.create_pod(f"plain-{number}", {}, "a") for number in range(BATCH)]
        veths = pairs_of(bench.bed, VETH, BATCH, "a")
        tunnels = pairs_of(bench.bed, VXLAN, 8, "b")
        rest(30)
        for number in range(ROUNDS + 1):
            bench.plain(veths[number % len(veths)], plain[0])
            bench.veth(number, veths[number % len(veths)])
        for number in range(TUNNELS + 1):
            bench.tunnel(number, tunnels[number % len(tunnels)])
        for number in range(BATCHES + 1):
            bench.at_once(number, veths, plain)
        say("an ADD that completes a vEth link, profiled")
        bench.profiled(veths)
        bench.a.agent.stop()
        say("the nodes go")
        return bench.rows(), Profile.read(bench.a.beside_settings("profile"))


@contextmanager
def _prepared(say: Say, prefix: str | None) -> Iterator[Bench]:
    with ExitStack() as stack:
        bed = stack.enter_context(ApartBed(prefix, KUBECONFIG))
        a, b = (add_node(bed, stack, name, address, PATIENT) for name, address in NODES.items())
        delegate = {key: value for key, value in ptp(bed.folder / "delegate").items() if key != "cniVersion"}
        delegating = Runtime.like(a.runtime, config={**PATIENT, "delegate": delegate})
        go = Runtime.like(a.runtime, bin_dir=go_plugin(bed.folder / "go"), config=ptp(bed.folder / "beside"))
        yield Bench(bed, a, b, go, delegating, Watching(bed), say)


def pairs_of(bed: Testbed, kind: str, number: int, node_of_primary: str) -> list[Pair]:
    """Pairs of pods, each pair's second on `a`."""
    names = [f"{kind.lower()}-{index}" for index in range(number)]
    netns = add_namespaces(bed.hosts, *(f"{name}-{end}" for name in names for end in ("p", "q")))
    pairs = []
    for index, name in enumerate(names):
        primary = bed.create_pod(f"{name}-p", {**PRIMARY, "ratchet.pair_name": f"{name}-q"}, node_of_primary)
        pair = bed.create_pod(f"{name}-q", PAIR, "a")
        pairs.append(Pair(primary, pair, netns[2 * index], netns[2 * index + 1]))
    return pairs


@contextmanager
def trivial_server(path: Path) -> Iterator[Path]:
    """A socket behind which a process answers whatever comes with one and the same answer."""
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


def rest(times: int = 1) -> None:
    time.sleep(times * PAUSE_SECONDS)


def added_at_once(runtime: Runtime, sandboxes: Sequence[Sandbox]) -> float:
    """ADDs a second."""
    return len(sandboxes) / all_at_once(lambda one: runtime.timed("ADD", one), sandboxes)[1]


def deleted_at_once(runtime: Runtime, sandboxes: Sequence[Sandbox]) -> None:
    all_at_once(lambda one: runtime.timed("DEL", one), sandboxes)


def has_carrier(sandbox: Sandbox, ifname: str) -> bool:
    device = datapath.observe_port(Location(sandbox.path), ifname)
    return device is not None and device.carrier


def percentile(values: Sequence[float], percent: int) -> float:
    """The least of the values that so many percent do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


if __name__ == "__main__":
    found, profile = measure()
    print(table(found))
    print(profile.table())
