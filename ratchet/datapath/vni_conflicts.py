"""Find and remove stale devices that hold a VNI on this node.

A VXLAN device claims (VNI, UDP port) in the namespace of its underlay socket, also when the device is in a pod's
namespace. If an open file or socket keeps that namespace after the pod, the VNI stays taken, and nothing in the node
shows it. A VNI belongs to one link, so any other device of ours that holds it is stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EINVAL, ENODEV
from pathlib import Path

from ratchet.core.interface import Device
from ratchet.datapath import messages
from ratchet.datapath.netns import Netns, open_netns, own_netns
from ratchet.datapath.parse import ObservedLink, known_as, links_of, read_nsid
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.errors import DatapathError, VniForeignError


@dataclass(frozen=True, slots=True)
class Holder:
    """A device that claims the VNI, and a channel to its namespace."""

    device: Device
    where: str
    channel: Channel
    nsid: int | None = None

    def delete(self) -> bool:
        """Delete the device. Returns False if it is about to go, together with its dying namespace."""
        index = self.device.index
        request = messages.drop_link(index) if self.nsid is None else messages.drop_link_in(self.nsid, index)
        (answer,) = self.channel.exchange(request)
        if answer.refusal is None or answer.refusal.errno == ENODEV:
            return True
        if self.nsid is not None and answer.refusal.errno == EINVAL:  # no namespace has this nsid any more
            return False
        raise DatapathError(
            f"cannot remove stale {self.device.ifname} in {self.where}: {answer.refusal.strerror}"
        ) from answer.refusal


def release(vni: int, port: int, search: Sequence[str] = ()) -> bool:
    """Delete Ratchet's devices that claim `vni` on UDP `port` in the caller's namespace.

    The devices may be in any namespace. Returns whether any was deleted. `search`: further paths of namespaces to
    search. Devices whose underlay is in another namespace are left alone, whatever their VNI, because they belong to
    other nodes. Raises VniForeignError, which names the device, if it is not Ratchet's.
    """
    freed = False
    for holder in _holders(vni, port, search):
        if not holder.device.ours:
            raise VniForeignError(
                f"VNI {vni} on UDP port {port} is held by {holder.device.ifname} in {holder.where}, "
                "which is not Ratchet's",
                vni=vni,
                details="Give ratchet a vni_range, or a UDP port, that nothing else on the node uses.",
            )
        freed |= holder.delete()
    return freed


def claimed() -> set[tuple[int, int]]:
    """The UDP port and VNI of every tunnel whose underlay is in the caller's namespace.

    The devices may be in any namespace that this process can reach.
    """
    return {
        (holder.device.port, holder.device.vni)
        for holder in _holders_of(lambda _: True, ())
        if holder.device.port is not None and holder.device.vni is not None
    }


def _holders(vni: int, port: int, search: Sequence[str]) -> Iterator[Holder]:
    return _holders_of(lambda link: _claims(link, vni, port), search)


def _holders_of(is_wanted: Callable[[ObservedLink], bool], search: Sequence[str]) -> Iterator[Holder]:
    with own_netns() as home:
        with Channel() as node:
            for link, nsid in _seen_from(node):
                if is_wanted(link) and _is_below(link, nsid, node, home):
                    where = "the node's namespace" if nsid is None else f"the namespace with nsid {nsid}"
                    yield Holder(link.device, where, node, nsid)
        for netns in _namespaces((*search, *_mounted(), *_of_processes()), home):
            with Channel(netns) as channel:
                for link in links_of(channel, "vxlan"):
                    # No nsid: its underlay is in its own namespace, not in the node's.
                    if not is_wanted(link) or link.lower_nsid is None:
                        continue
                    if link.lower_nsid == known_as(channel, home):
                        yield Holder(link.device, netns.path, channel)


def _seen_from(node: Channel) -> Iterator[tuple[ObservedLink, int | None]]:
    """All tunnels in the node's own namespace and in those that have an nsid there."""
    yield from ((link, None) for link in links_of(node, "vxlan"))
    for number in [read_nsid(raw) for raw in node.dump(messages.nsids())]:
        if number is not None:
            with suppress(RefusedError):  # removed meanwhile
                yield from ((link, number) for link in links_of(node, "vxlan", number))


def _claims(link: ObservedLink, vni: int, port: int) -> bool:
    return (link.device.vni, link.device.port) == (vni, port)


def _is_below(link: ObservedLink, nsid: int | None, node: Channel, home: Netns) -> bool:
    """Whether the underlay of a tunnel, observed from the node's namespace, is in that namespace."""
    if link.lower_nsid is None:
        return nsid is None
    return link.lower_nsid == known_as(node, home)


def _namespaces(paths: Iterable[str], home: Netns) -> Iterator[Netns]:
    seen = {home.identity}
    for path in paths:
        with suppress(DatapathError), open_netns(path) as netns:
            if netns.identity not in seen:
                seen.add(netns.identity)
                yield netns


def _mounted() -> Iterator[str]:
    """Paths of namespace bind mounts, as of container runtimes and ip-netns(8) (proc_pid_mountinfo(5))."""
    for line in Path("/proc/thread-self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        fields, _, source = line.partition(" - ")
        if source.startswith("nsfs "):
            yield fields.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape")


def _of_processes() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        yield str(process / "ns" / "net")
