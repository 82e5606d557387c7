"""Faults of one node: its agent, its requests to the API, its network, its disk, its clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ratchet.dev.hosts import ip
from ratchet.errors import RatchetError
from tests.chaos.actor import Actor
from tests.chaos.invariants import Usage
from tests.chaos.steps import Family, Fault, Step
from tests.chaos.world import World
from tests.support.disks import BrokenDisk, DiskBusyError
from tests.support.faults import Act, Rule, Sent, answering, delaying, dropping
from tests.support.outages import set_node_ready

ALWAYS = 1 << 30
API_ACTS: dict[Fault, tuple[Act | None, Act | None]] = {
    Fault.FORBIDDEN: (answering(403, "Forbidden"), None),
    Fault.BUSY: (answering(429, "TooManyRequests", **{"Retry-After": "1"}), None),
    Fault.BROKEN: (answering(500, "InternalError"), None),
    Fault.REPLIES_LOST: (None, dropping),
    Fault.SLOW: (delaying(0.7), None),
    Fault.API_CUT: (dropping, None),
}


def process_usage(pid: int) -> Usage:
    """What a process uses (proc(5)); nothing if it has ended."""
    folder = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        descriptors = len(list((folder / "fd").iterdir()))
        return Usage(int(status["VmRSS"].split()[0]) * 1024, int(status["Threads"]), descriptors)
    except (OSError, KeyError):  # a process that is ending has no memory
        return Usage()


class NodeActor(Actor):
    """The faults of one node. `exited`: its agent ended by itself, and no fault of the disk explains it."""

    def __init__(self, name: str, world: World) -> None:
        super().__init__(name, world)
        self.exited = False
        self.peak = Usage()
        self._agent = world.bed.agents[name]
        self._rule: Rule | None = None
        self._wanted = True
        self._launched = True
        self._bad_disk = False
        self._disk: BrokenDisk | None = None

    def begin(self, step: Step) -> None:
        """Begin a fault."""
        assert step.fault is not None
        self._begin_of(step.fault)(step)

    def end(self, step: Step) -> None:
        """End a fault."""
        assert step.fault is not None
        match step.fault.family:
            case Family.AGENT:
                self._agent.resume()
                self._wanted = True
                self.revive()
            case Family.API:
                self._end_api_fault()
            case Family.NETWORK:
                self._mend_network(step)
            case Family.DISK:
                self._mend_disk()

    def step_clock(self, step: Step) -> None:
        self.world.clocks[self.name].step(step.seconds)

    def revive(self) -> None:
        """Start the agent if it has ended, as a kubelet does."""
        if not self._wanted or self._agent.running:
            return
        if self._launched and not self._bad_disk:
            self.exited = True
        self._agent.launch()
        self._launched = True  # if it does not run the next time, it has ended by itself

    def usage(self) -> Usage:
        """What the agent uses now. Keeps the peak."""
        try:
            usage = process_usage(self._agent.pid)
        except RatchetError:  # it is down
            usage = Usage()
        self.peak = self.peak.peak(usage)
        return usage

    def _begin_of(self, fault: Fault) -> Callable[[Step], None]:
        if fault.family is Family.API:
            return self._fail_api
        return {
            Fault.KILLED: self._end_agent,
            Fault.STOPPED: self._end_agent,
            Fault.PAUSED: lambda _: self._agent.pause(),
            Fault.UNPLUGGED: self._unplug,
            Fault.SPLIT: self._split,
            Fault.READ_ONLY: self._spoil_disk,
            Fault.FULL: self._spoil_disk,
        }[fault]

    def _end_agent(self, step: Step) -> None:
        self._wanted = self._launched = False
        self._agent.kill() if step.fault is Fault.KILLED else self._agent.stop()

    def _fail_api(self, step: Step) -> None:
        assert step.fault is not None
        address = self.world.kubelet(self.name).host.address

        def matches(sent: Sent) -> bool:
            return sent.remote == address and (sent.writes or step.fault is not Fault.REPLIES_LOST)

        before, after = API_ACTS[step.fault]
        self._rule = self.world.faults.add(Rule(matches, before=before, after=after, times=ALWAYS))
        self.world.streams.cut(address)

    def _end_api_fault(self) -> None:
        if self._rule is not None:
            self.world.faults.rules.remove(self._rule)
            self._rule = None

    def _unplug(self, _: Step) -> None:
        self._cut(self.name, "down")
        set_node_ready(self.world.bed, self.world.kubelet(self.name), False)

    def _split(self, step: Step) -> None:
        """Isolated ports of a bridge reach all ports but each other (bridge(8), `isolated`)."""
        for node in (step.node, step.peer):
            self._cut(node, "type", "bridge_slave", "isolated", "on")

    def _mend_network(self, step: Step) -> None:
        if step.fault is Fault.UNPLUGGED:
            self._mend(self.name, "up")
            set_node_ready(self.world.bed, self.world.kubelet(self.name), True)
        else:
            for node in (step.node, step.peer):
                self._mend(node, "type", "bridge_slave", "isolated", "off")

    def _cut(self, node: str, *setting: str) -> None:
        self.world.mended_at[node] = float("inf")
        self._set_port(node, *setting)

    def _mend(self, node: str, *setting: str) -> None:
        self._set_port(node, *setting)
        self.world.mended_at[node] = time.monotonic()

    def _set_port(self, node: str, *setting: str) -> None:
        ip("-n", self.world.bed.hosts.switch, "link", "set", self.world.ports[node], *setting)

    def _spoil_disk(self, step: Step) -> None:
        self._bad_disk = True
        disk = BrokenDisk(self.world.kubelet(self.name).state_dir, "full" if step.fault is Fault.FULL else "read-only")
        try:
            disk.break_down()
            self._disk = disk
        except DiskBusyError:
            self.world.log.note(f"the state directory of {self.name} stays writable: a paused agent has files open")

    def _mend_disk(self) -> None:
        if self._disk is not None:
            self._disk.repair()
            self._disk = None
        self.revive()
        self._bad_disk = False
