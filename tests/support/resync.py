"""Make every agent reconcile all its links and namespaces now, and wait until each agent has done so."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ratchet.core.model import Link, State
from ratchet.core.state_machine import derive
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import command_in, ip
from ratchet.dev.testbed import Testbed, wait_for
from ratchet.store.api_errors import NotFoundError
from tests.support.cluster import Cluster

# An agent with one worker reconciles links in the order of their events.
IN_ORDER = {"workers": 1}
TOPOLOGY = "probe"
ROUNDS = 4

Interface = tuple[Sandbox, str]


def touch(bed: Testbed, record: str) -> bool:
    """Annotate a record, so that the agents of both its nodes reconcile the link; False if the record is gone."""
    annotation = {"metadata": {"annotations": {"touched": str(time.time())}}}
    try:
        bed.api.patch(f"{bed.store.links.path}/{record}", annotation)
    except NotFoundError:
        return False
    return True


def records_at(bed: Testbed, pod: str, ifname: str) -> list[Link]:
    """The records in the testbed's namespace that have this interface of this pod at an end."""
    return [
        record
        for record in bed.links().values()
        if record.namespace == bed.namespace
        and any(end.ifname == ifname and pod in names_at(record, end.ifname) for end in (record.primary, record.pair))
    ]


def names_at(record: Link, ifname: str) -> set[str]:
    """The names of the pods that the record has at ends with this interface: as declared, and the pod's own."""
    ends = [end for end in (record.primary, record.pair) if end.ifname == ifname]
    return {end.name for end in ends} | {end.sandbox.pod.name for end in ends if end.sandbox is not None}


def held_at(bed: Testbed, sandbox: Sandbox, ifname: str) -> list[Link]:
    """The records that hold this interface of this sandbox."""
    return [
        record
        for record in bed.links().values()
        for end in (record.primary, record.pair)
        if end.sandbox is not None and end.sandbox.container_id == sandbox.container_id and end.ifname == ifname
    ]


@dataclass
class Resync:
    """Two probe pods, one per node, whose links show how far each agent has come.

    The agents need the options `IN_ORDER`. A cluster without agents has no probes: nothing reconciles there.
    """

    cluster: Cluster
    _probes: list[tuple[Kubelet, Sandbox]] = field(default_factory=list)
    _links: int = 1

    def start(self) -> None:
        """Create the probe pods."""
        if self.cluster.bed.agents:
            asks = {"ratchet": "true"}
            nodes = (self.cluster.a, self.cluster.b)
            self.cluster.bed.create_topology(TOPOLOGY, self._topology())
            self._probes = [(node, self.cluster.pod(f"probe-{node.host.name}", asks, node)) for node in nodes]
            self.cluster.add_all(*self._probes)

    def stop(self) -> None:
        """Delete the probe pods, so that a test may expect that nothing is left."""
        probes, self._probes = self._probes, []
        self.cluster.delete_all(*probes)

    def run(self) -> None:
        """Have each agent evaluate the namespace, then reconcile every record, and wait until both agents are done."""
        if self._probes:
            self._evaluate_namespace()
            self._reconcile_records()

    def assert_steady(self, one: Interface, other: Interface, address: str) -> None:
        """Assert that a link stays exactly as it is over several rounds, and that pings of `address` go on."""
        before = self._observed(one, other)
        with pinging(one[0], address):
            for _ in range(ROUNDS):
                self.run()
                now = self._observed(one, other)
                assert now == before, f"{now} instead of {before}"
            assert self.cluster.pings(one[0], address)

    def _observed(self, *ends: Interface) -> list[object]:
        """The one record of a link, and what the kernel has at its ends."""
        seen: list[object] = []
        for sandbox, ifname in ends:
            records = held_at(self.cluster.bed, sandbox, ifname)
            assert len(records) == 1, f"{ifname} of pod {sandbox.pod.name} is in {[one.name for one in records]}"
            assert derive(records[0]) is State.LINKED
            shown = self.cluster.show(sandbox, ifname)
            made = {key: shown[key] for key in ("ifindex", "address")} | {"linkinfo": shown["linkinfo"]}
            seen.append((records[0].uid, records[0].vni, made))
        return seen

    def _evaluate_namespace(self) -> None:
        """Add a link between the probes: each agent joins its end when it evaluates the namespace."""
        self._links += 1
        self.cluster.bed.edit_topology(TOPOLOGY, self._topology())
        wait_for("the new link between the probes", lambda: self._is_linked(f"probe{self._links}"))

    def _reconcile_records(self) -> None:
        """Touch all records, the probes' last: an agent restores its probe's interface after all the others."""
        bed, ifname = self.cluster.bed, f"probe{self._links}"
        probe = records_at(bed, "probe-a", ifname)[0].name
        for _, sandbox in self._probes:
            ip("-n", sandbox.netns, "link", "del", ifname)
        for name in [name for name in bed.links() if name != probe] + [probe]:
            touch(bed, name)
        wait_for("the probes' interfaces", lambda: self._have(ifname))

    def _have(self, ifname: str) -> bool:
        return all(ifname in self.cluster.interfaces(sandbox) for _, sandbox in self._probes)

    def _is_linked(self, ifname: str) -> bool:
        return [derive(record) for record in records_at(self.cluster.bed, "probe-a", ifname)] == [State.LINKED]

    def _topology(self) -> str:
        """The links between the probes."""
        numbers = range(1, self._links + 1)
        return "\n".join(f'- endpoints: ["probe-a:probe{one}", "probe-b:probe{one}"]' for one in numbers)


@contextmanager
def resyncing(cluster: Cluster) -> Iterator[Resync]:
    """Probes for a test; they are deleted when the test succeeds, and with the cluster when it fails."""
    resync = Resync(cluster)
    resync.start()
    yield resync
    resync.stop()


@contextmanager
def pinging(sandbox: Sandbox, address: str) -> Iterator[None]:
    """Ping ten times a second, and assert that every ping is answered, except perhaps the last one."""
    command = command_in(sandbox.netns, "ping", "-n", "-q", "-i", "0.1", "-W", "1", address)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        summary, _ = process.communicate(timeout=10)
    counts = [line.split() for line in summary.splitlines() if "packets transmitted" in line]
    assert counts, summary
    sent, received = int(counts[0][0]), int(counts[0][3])
    assert sent <= received + 1, summary
