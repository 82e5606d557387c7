"""Two nodes with agents to measure on, and calls of plugins timed as whole processes by the same code, ours and Go's.

The embedded API has a process of its own, or it would take its turns at the interpreter with whoever measures. Agents
are started by told_agent.py, which tells of their requests.
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
from ratchet.core.pod import PodRef
from ratchet.dev.access import Access
from ratchet.dev.agents import AgentProcess
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import SWITCH_ADDRESS, Host, Hosts, command_in, netns_path
from ratchet.dev.testbed import Testbed
from ratchet.errors import RatchetError
from ratchet.install import install

KUBECONFIG = Path(os.environ["RATCHET_BENCH_KUBECONFIG"]) if "RATCHET_BENCH_KUBECONFIG" in os.environ else None
AT_ONCE = 16

NODES = {"a": "192.168.1.73/24", "b": "192.168.1.33/24"}

HERE = Path(__file__).parent

Item = TypeVar("Item")
Given = TypeVar("Given")


@dataclass(frozen=True, slots=True)
class Done:
    """A call as its process came to an end; `began` and `ended` in seconds of the monotonic clock."""

    began: float
    ended: float
    status: int
    stdout: str

    @property
    def ms(self) -> float:
        return (self.ended - self.began) * 1e3


def run(program: Path, environ: Mapping[str, str], stdin: bytes) -> Done:
    """A process from its start until its end. It has to succeed.

    Its streams are files: nobody has to be awake to read them, and nothing of that is in the figure.
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
    return Done(began, ended, os.waitstatus_to_exitcode(status), stdout)


class Runtime(Kubelet):
    """A kubelet whose calls can be timed."""

    @classmethod
    def like(cls, kubelet: Kubelet, **changes: Any) -> Self:
        return cls(**{one.name: getattr(kubelet, one.name) for one in fields(Kubelet)} | changes)

    def timed(self, command: str, sandbox: Sandbox | None = None) -> Done:
        """A call of the plugin, started by a thread that is in the node's namespace: no nsenter(1) is in the figure."""
        stdin = json.dumps(self._with_result(command, sandbox, dict(self.config))).encode()
        environ = {**os.environ, **self.environment, **self._variables(command, sandbox)}
        with datapath.open_netns(netns_path(self.host.netns)) as netns, datapath.inside(netns):
            done = run(self.bin_dir / "ratchet", environ, stdin)
        if command == "ADD" and sandbox is not None:
            sandbox.result = json.loads(done.stdout)
        return done


@dataclass(frozen=True, slots=True)
class Request:
    """A request of an agent to the API: when it was sent and when its answer began, by which thread, what it was."""

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

    def beside_settings(self, suffix: str) -> Path:
        """A file by which told_agent.py tells, or is told."""
        return self.agent.folder / f"agent.json.{suffix}"

    def requests(self, since: float = 0.0, until: float = float("inf")) -> list[Request]:
        """What the agent has asked of the API in some span of the monotonic clock."""
        told = map(_request, self.beside_settings("told").read_text().splitlines())
        return [one for one in told if since <= one.sent <= until]

    def worked(self, since: float, until: float) -> float:
        """Seconds of CPU that calls which ended in some span of the monotonic clock took outside the API's client."""
        told = (line.split() for line in self.beside_settings("worked").read_text().splitlines())
        return sum(float(took) for ended, took in told if since <= float(ended) <= until)

    def cpu(self) -> float:
        """Seconds of CPU that the agent has used so far (clock_getres(2), "the CPU-time clock of a process")."""
        return time.clock_gettime((~self.agent.pid << 3) | 2)

    def memory(self) -> float:
        """The agent's RSS in MiB (proc_pid_status(5), VmRSS)."""
        lines = Path(f"/proc/{self.agent.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


class ToldHost(Host):
    """A node whose agent is started by told_agent.py."""

    def command(self, *argv: str) -> list[str]:
        module = argv.index("-m")
        options = argv[argv.index("agent") + 1 :]
        return command_in(self.netns, *argv[:module], str(HERE / "told_agent.py"), *options)


class ApartBed(Testbed):
    """A bed whose embedded API is a process of its own."""

    _api: subprocess.Popen[str]

    def move_api(self, seconds: float) -> None:
        """Have the embedded API hold back every answer for so many seconds from now on."""
        assert self._api.stdin is not None
        assert self._api.stdout is not None
        print(seconds, file=self._api.stdin, flush=True)
        self._api.stdout.readline()

    def _reached_api(self) -> Any:
        return super()._reached_api() if self.kubeconfig is not None else self._api_apart()

    @contextmanager
    def _api_apart(self) -> Iterator[Access]:
        folder = self.folder
        access = Access(folder / "kubeconfig", folder / "node.kubeconfig")
        with datapath.open_netns(netns_path(self.hosts.switch)) as netns, datapath.inside(netns):
            listener = socket.create_server((SWITCH_ADDRESS, 0), backlog=128)
        with listener, (folder / "api.log").open("wb") as log:
            program = [sys.executable, str(HERE / "api_apart.py"), str(listener.fileno())]
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
            process.communicate()  # the end of its stdin is its own


class Watching:
    """When each link was seen to be linked, in seconds of the monotonic clock, by a watch on the records."""

    def __init__(self, bed: Testbed) -> None:
        self.linked: dict[str, float] = {}
        self._bed = bed
        self._path = bed.records.links.path
        _, self._version = bed.api.list(self._path)
        threading.Thread(target=self._watch, name="watching", daemon=True).start()

    def _watch(self) -> None:
        with suppress(Exception):  # its end is the bed's
            while True:
                for event in self._bed.api.watch(self._path, self._version, 3600):
                    metadata = event.object["metadata"]
                    self._version = metadata["resourceVersion"]
                    if (event.object.get("data") or {}).get("state") != "linked" or event.type == "DELETED":
                        self.linked.pop(metadata.get("name", ""), None)
                    else:
                        self.linked.setdefault(metadata["name"], time.monotonic())

    def wait(self, *links: str, seconds: float = 30.0) -> float:
        """When the last of these was linked."""
        until = time.monotonic() + seconds
        while missing := [link for link in links if link not in self.linked]:
            if time.monotonic() > until:
                raise RatchetError(f"cannot go on: {len(missing)} links were not linked, {missing[0]} for one")
            time.sleep(0.002)
        return max(self.linked[link] for link in links)


def add_node(bed: Testbed, stack: ExitStack, name: str, address: str, config: Mapping[str, Any]) -> Node:
    """A node of the bed whose agent runs, for as long as `stack` is open."""
    kubelet = bed.add_node(name, address, dict(config))
    kubeconfig, state_dir = bed.access.node_kubeconfig, kubelet.state_dir
    install(kubelet.bin_dir, kubeconfig=kubeconfig, state_dir=state_dir, agent=True, fallback=False)
    host = ToldHost(kubelet.host.name, kubelet.host.netns, kubelet.host.addresses)
    agent = AgentProcess(host, kubeconfig, bed.folder / name, state_dir)
    stack.callback(agent.kill)
    agent.start()
    return Node(Runtime.like(kubelet, environment=agent.environment), agent)


def all_at_once(act: Callable[[Item], Given], items: Iterable[Item]) -> tuple[list[Given], float]:
    """What `act` gives for each, AT_ONCE at once, and how many seconds all of it took."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        began = time.monotonic()
        given = list(pool.map(act, items))
        return given, time.monotonic() - began


def add_namespaces(hosts: Hosts, *names: str) -> list[str]:
    """Namespaces under the bed's prefix, made at once; their full names."""
    full = [f"{hosts.prefix}{name}" for name in names]
    hosts.made += full
    lines = "".join(f"netns add {name}\n" for name in full)
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True, capture_output=True)
    return full


def sandbox_in(netns: str, pod: PodRef) -> Sandbox:
    """A new sandbox of a pod in a namespace, in which others may have been before it or be beside it."""
    return Sandbox(pod, secrets.token_hex(32), netns)


def _request(line: str) -> Request:
    sent, answered, thread, method, path, status = line.split(" ")
    return Request(float(sent), float(answered), thread, method, path, int(status))
