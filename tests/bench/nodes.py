"""Two nodes with agents, and calls of plugins that are timed as whole processes.

The embedded API server runs in a process of its own, so that it does not share an interpreter with the benchmark.
traced_agent.py runs the agents and traces their requests.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from ratchet import datapath
from ratchet.core.kinds import Wiring
from ratchet.core.pod import PodRef
from ratchet.dev.access import Access
from ratchet.dev.agents import AgentProcess
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import SWITCH_ADDRESS, Host, Hosts, command_in, netns_path
from ratchet.dev.testbed import Testbed
from ratchet.errors import RatchetError
from ratchet.install import install
from tests.support.cluster import PATIENT

KUBECONFIG = Path(os.environ["RATCHET_BENCH_KUBECONFIG"]) if "RATCHET_BENCH_KUBECONFIG" in os.environ else None
CONCURRENCY = 16

NODES = {"a": "192.168.1.73/24", "b": "192.168.1.33/24"}

HERE = Path(__file__).parent

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class TimedCall:
    """A finished call; `began` and `ended` are seconds of the monotonic clock."""

    began: float
    ended: float
    status: int
    stdout: str

    @property
    def ms(self) -> float:
        return (self.ended - self.began) * 1e3


def run(program: Path, environ: Mapping[str, str], stdin: bytes) -> TimedCall:
    """Run a process. Raises AssertionError if it fails.

    Its streams are files, so that no reader of pipes adds to the time.
    """
    streams = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        os.write(streams[0], stdin)
        os.lseek(streams[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, stream, number) for number, stream in enumerate(streams)]
        began = time.monotonic()
        pid = os.posix_spawn(program, [str(program)], environ, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        ended = time.monotonic()
        stdout, stderr = (os.pread(stream, 1 << 20, 0).decode() for stream in streams[1:])
    finally:
        for stream in streams:
            os.close(stream)
    if status != 0:
        raise AssertionError(f"{environ.get('CNI_COMMAND')} of {program} failed: {stdout.strip()} {stderr.strip()}")
    return TimedCall(began, ended, os.waitstatus_to_exitcode(status), stdout)


class Runtime(Kubelet):
    """A kubelet whose calls can be timed."""

    @classmethod
    def like(cls, kubelet: Kubelet, **changes: Any) -> Self:
        return cls(**{one.name: getattr(kubelet, one.name) for one in fields(Kubelet)} | changes)

    def timed(self, command: str, sandbox: Sandbox | None = None) -> TimedCall:
        """Call the plugin from a thread in the node's namespace, so that the time includes no nsenter(1)."""
        stdin = json.dumps(self._with_result(command, sandbox, dict(self.config))).encode()
        environ = {**os.environ, **self.environment, **self._variables(command, sandbox)}
        with datapath.open_netns(netns_path(self.host.netns)) as netns, datapath.inside(netns):
            done = run(self.bin_dir / "ratchet", environ, stdin)
        if command == "ADD" and sandbox is not None:
            sandbox.result = json.loads(done.stdout)
        return done


@dataclass(frozen=True, slots=True)
class Request:
    """A request of an agent to the API: when it was sent, when its response began, and the agent's thread."""

    sent: float
    answered: float
    thread: str
    method: str
    path: str
    status: int

    @property
    def writes(self) -> bool:
        return self.method in ("POST", "PUT", "PATCH", "DELETE") and self.status < 400


@dataclass(slots=True)
class Node:
    """A node with its agent."""

    runtime: Runtime
    agent: AgentProcess

    def trace_file(self, suffix: str) -> Path:
        """A file that traced_agent.py writes or checks."""
        return self.agent.folder / f"agent.json.{suffix}"

    def requests(self, since: float = 0.0, until: float = float("inf")) -> list[Request]:
        """The agent's requests that were sent in a span of the monotonic clock."""
        traced = map(_request, self.trace_file("requests").read_text().splitlines())
        return [one for one in traced if since <= one.sent <= until]

    def cpu_of_calls(self, since: float, until: float) -> float:
        """CPU seconds, without the API's client, of the calls that ended in a span of the monotonic clock."""
        traced = (line.split() for line in self.trace_file("calls").read_text().splitlines())
        return sum(float(took) for ended, took in traced if since <= float(ended) <= until)

    def cpu(self) -> float:
        """Seconds of CPU that the agent has used so far (clock_getres(2), "the CPU-time clock of a process")."""
        return time.clock_gettime((~self.agent.pid << 3) | 2)

    def cpu_of_thread(self, name: str) -> float:
        """Seconds of CPU that the agent's thread of this name has used so far (proc_pid_stat(5), utime and stime)."""
        lines = self.trace_file("threads").read_text().splitlines()
        thread = next(line.split()[0] for line in lines if line.partition(" ")[2] == name)
        fields = Path(f"/proc/{self.agent.pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """The agent's RSS in MiB (proc_pid_status(5), VmRSS)."""
        lines = Path(f"/proc/{self.agent.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


class TracedHost(Host):
    """A node whose agent runs in traced_agent.py."""

    def command(self, *argv: str) -> list[str]:
        module = argv.index("-m")
        options = argv[argv.index("agent") + 1 :]
        return command_in(self.netns, *argv[:module], str(HERE / "traced_agent.py"), *options)


class ApiProcessBed(Testbed):
    """A testbed whose embedded API server is a process of its own."""

    _api: subprocess.Popen[str]

    def delay_api(self, seconds: float) -> None:
        """Delay all further responses of the embedded API server, except to watches."""
        assert self._api.stdin is not None
        assert self._api.stdout is not None
        print(seconds, file=self._api.stdin, flush=True)
        self._api.stdout.readline()

    def _reached_api(self) -> Any:
        return super()._reached_api() if self.kubeconfig is not None else self._api_process()

    @contextmanager
    def _api_process(self) -> Iterator[Access]:
        folder = self.folder
        access = Access(folder / "kubeconfig", folder / "node.kubeconfig")
        with datapath.open_netns(netns_path(self.hosts.switch)) as netns, datapath.inside(netns):
            listener = socket.create_server((SWITCH_ADDRESS, 0), backlog=128)
        with listener, (folder / "api.log").open("wb") as log:
            program = [sys.executable, str(HERE / "api_process.py"), str(listener.fileno())]
            process = self._api = subprocess.Popen(
                [*program, str(access.kubeconfig), str(access.node_kubeconfig)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=(listener.fileno(),),
                start_new_session=True,
            )
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RatchetError(f"cannot start the embedded API: {(folder / 'api.log').read_text()[-2000:]}")
            yield access
        finally:
            process.communicate()  # it ends with its stdin


class LinkWatch:
    """A watch of records, which notes when each link becomes linked, in seconds of the monotonic clock."""

    def __init__(self, bed: Testbed) -> None:
        self.linked: dict[str, float] = {}
        self._bed = bed
        self._path = bed.store.links.path
        _, self._version = bed.api.list(self._path)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _watch(self) -> None:
        with suppress(Exception):  # the testbed ends
            while True:
                for event in self._bed.api.watch(self._path, self._version, 3600):
                    metadata = event.object["metadata"]
                    self._version = metadata["resourceVersion"]
                    if (event.object.get("data") or {}).get("state") != "linked" or event.type == "DELETED":
                        self.linked.pop(metadata.get("name", ""), None)
                    else:
                        self.linked.setdefault(metadata["name"], time.monotonic())

    def wait(self, *links: str, seconds: float = 30.0) -> float:
        """Wait until all of these are linked. Returns when the last one was."""
        until = time.monotonic() + seconds
        while missing := [link for link in links if link not in self.linked]:
            if time.monotonic() > until:
                raise RatchetError(f"cannot measure: {len(missing)} links are not linked, such as {missing[0]}")
            time.sleep(0.002)
        return max(self.linked[link] for link in links)


def add_node(bed: Testbed, stack: ExitStack, name: str, address: str, config: Mapping[str, Any]) -> Node:
    """Add a node whose agent runs until `stack` is closed."""
    kubelet = bed.add_node(name, address, dict(config))
    kubeconfig, state_dir = bed.access.node_kubeconfig, kubelet.state_dir
    install(kubelet.bin_dir, kubeconfig=kubeconfig, state_dir=state_dir, agent=True, fallback=False)
    host = TracedHost(kubelet.host.name, kubelet.host.netns, kubelet.host.addresses)
    agent = AgentProcess(host, kubeconfig, bed.folder / name, state_dir)
    bed.hosts.adopt_namespace(host.panel)
    stack.callback(agent.kill)
    agent.start()
    return Node(Runtime.like(kubelet, environment=agent.environment), agent)


@contextmanager
def two_nodes(prefix: str | None, kubeconfig: Path | None = None) -> Iterator[tuple[ApiProcessBed, Node, Node]]:
    """A testbed with two nodes, each with an agent. ADDs do not wait for peers."""
    with ExitStack() as stack:
        bed = stack.enter_context(ApiProcessBed(prefix, kubeconfig))
        a, b = (add_node(bed, stack, name, address, PATIENT) for name, address in NODES.items())
        yield bed, a, b


def run_concurrently(act: Callable[[Item], Result], items: Iterable[Item]) -> tuple[list[Result], float]:
    """Call `act` for all items, CONCURRENCY at a time. Returns the results, and the seconds that all calls took."""
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        began = time.monotonic()
        results = list(pool.map(act, items))
        return results, time.monotonic() - began


def add_namespaces(hosts: Hosts, *names: str) -> list[str]:
    """Create namespaces with the testbed's prefix, in one batch. Returns their full names."""
    full = [f"{hosts.prefix}{name}" for name in names]
    hosts.made += full
    lines = "".join(f"netns add {name}\n" for name in full)
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True, capture_output=True)
    return full


def wiring_label(wiring: Wiring) -> dict[str, str]:
    """The label of a pod whose link has this wiring; none for that of the labels of 2017."""
    return {"ratchet.wiring": wiring.value} if wiring is not Wiring.DIRECT else {}


def sandbox_in(netns: str, pod: PodRef) -> Sandbox:
    """A new sandbox of a pod. Several sandboxes may use the namespace, also at the same time."""
    return Sandbox(pod, secrets.token_hex(32), netns)


def _request(line: str) -> Request:
    sent, answered, thread, method, path, status = line.split(" ")
    return Request(float(sent), float(answered), thread, method, path, int(status))
