"""A pod's side of a wire while it is worked on: its namespace open, a socket in it, the port that belongs there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EACCES, EINVAL, ENODEV, EOPNOTSUPP
from pathlib import Path

from ratchet.core.device import Device, Port
from ratchet.core.model import Address
from ratchet.datapath import messages
from ratchet.datapath.netns import Netns, inside, open_netns, refuse_host
from ratchet.datapath.reading import NUD_LASTING, Sight, neighbours_of, see
from ratchet.datapath.rtnetlink import Answer, Channel, RefusedError
from ratchet.errors import DatapathError, ForeignInterfaceError

IPV6_LEAST_MTU = 1280  # RFC 8200, section 5
# In a container /proc/sys is read-only: the host's is mounted beside it. Either shows the opening thread's namespace.
_MOUNTED = "/host/proc/sys/net"
_SETTINGS = _MOUNTED if Path(_MOUNTED).is_dir() else "/proc/sys/net"
ATTEMPTS = 4  # how often to look again when another hand works on the same names


@dataclass(frozen=True, slots=True)
class OpenPod:
    """Opened by `open_pod`, closed with its block."""

    netns: Netns
    channel: Channel
    port: Port

    def see(self) -> Sight | None:
        """What stands under the port's name."""
        try:
            return see(self.channel, self.port.ifname, self.port.addresses)
        except RefusedError as refusal:
            raise DatapathError(f"cannot read {self}: {refusal.strerror}") from refusal

    def silence(self) -> None:
        """Have the interface ignore router advertisements: the other end of a link must not become the pod's router
        (CVE-2020-10749). No such file: the pod has no IPv6, or the MTU is too small for it."""
        setting = f"{_SETTINGS}/ipv6/conf/{self.port.ifname}/accept_ra"
        try:
            with inside(self.netns):  # it shows the namespace of the thread that opens it
                _write(setting, b"0")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self.failed(
                f"cannot turn router advertisements off: {error.strerror}",
                details=f"Ratchet needs a writable /proc/sys/net; in a container, mount the host's at {_MOUNTED}.",
            ) from error

    def finish(self, index: int, link: str, drop: Iterable[Address] = (), *, carrier: bool = True) -> bool:
        """Up, with the port's addresses and without those of `drop`.

        Where it is not to have `carrier`, it has none from the first moment; otherwise its carrier is left alone.
        False, with all the rest done, if the kernel cannot take it.
        """
        give = [messages.give_address(index, address) for address in self.port.addresses]
        take = [messages.take_address(index, address) for address in drop]
        requests = messages.up(index, link), *take, *give
        if not carrier:
            return self.set_carrier(index, False, *requests)
        self.do(*requests)
        return True

    def set_carrier(self, index: int, has: bool, *then: bytearray) -> bool:
        """Give the interface its carrier, or take it, and do what comes `then`.

        False, with all the rest done, if the kernel cannot do that to this kind of interface.
        """
        first, *others = self.channel.exchange(messages.carrier(index, has), *then)
        unable = first.refusal is not None and first.refusal.errno == EOPNOTSUPP
        self._accept(others if unable else (first, *others))
        return not unable

    def adjust(self, device: Device, link: str) -> None:
        """Bring a standing interface to what the port wants, without taking it down."""
        if device.mtu != self.port.mtu:
            self.do(messages.sized(device.index, self.port.mtu))
        self.silence()
        self.finish(device.index, link, [address for address in device.given if address not in self.port.addresses])

    def take_down(self, device: Device | None) -> None:
        """Delete an interface; a vEth's peer goes with it."""
        if device is not None:
            self.delete(device.index)

    def delete(self, index: int) -> bool:
        """Whether there was such an interface to delete."""
        (answer,) = self.channel.exchange(messages.drop_link(index))
        if answer.refusal is None:
            return True
        if answer.refusal.errno == ENODEV:
            return False
        raise DatapathError(f"cannot remove {self}: {answer.refusal.strerror}") from answer.refusal

    def forget_neighbours(self, index: int) -> None:
        """Have the pod ask anew who is at the other end; what somebody has set by hand stays."""
        learnt = [one for one in neighbours_of(self.channel, index) if not one.state & NUD_LASTING]
        self.channel.exchange(*(messages.drop_neighbour(one.family, index, one.address) for one in learnt))

    def do(self, *requests: bytearray) -> None:
        self._accept(self.channel.exchange(*requests))

    def refuse_foreign(self, device: Device | None) -> None:
        if device is not None and not device.ours:
            raise ForeignInterfaceError(
                f"cannot make {self}: an interface of that name exists and is not ratchet's",
                path=self.netns.path,
                details="Choose another interface name for the link, or remove the interface.",
            )

    def failed(self, cause: object, details: str = "") -> DatapathError:
        return DatapathError(f"cannot make {self}: {cause}", details=details)

    def _accept(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            if answer.refusal is not None:
                raise self.failed(answer.refusal.strerror, details=self._advice(answer.refusal)) from answer.refusal

    def _advice(self, refusal: RefusedError) -> str:
        if refusal.errno == EACCES:
            return "The link has an IPv6 address and the pod has IPv6 disabled (net.ipv6.conf.all.disable_ipv6)."
        if (
            refusal.errno == EINVAL
            and self.port.mtu < IPV6_LEAST_MTU
            and any(one.version == 6 for one in self.port.addresses)
        ):
            return f"IPv6 needs an MTU of {IPV6_LEAST_MTU} bytes, and the link has one of {self.port.mtu}."
        if refusal.errno == EINVAL:
            return "The MTU or an address does not suit this kind of interface."
        return ""

    def __str__(self) -> str:
        return f"{self.port.ifname} in {self.netns.path}"


@contextmanager
def open_pod(port: Port) -> Iterator[OpenPod]:
    """Raises NamespaceGoneError, and HostNamespaceError for the caller's own namespace."""
    with open_netns(port.netns) as netns:
        refuse_host(netns)
        with Channel(netns) as channel:
            yield OpenPod(netns, channel, port)


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
