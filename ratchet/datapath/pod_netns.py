"""One end of a link in its pod: the open namespace, a netlink socket in it, the interface's spec."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from errno import EACCES, EEXIST, EINVAL, ENODEV, ENOENT, EOPNOTSUPP

from ratchet.core.endpoint_spec import Sysctl
from ratchet.core.interface import DEFAULT_TXQLEN, Device, InterfaceSpec
from ratchet.core.tunnel_guard import owner_of
from ratchet.datapath import ethtool, messages, sysctl, tc, tunnel_guard
from ratchet.datapath.netns import Netns, inside, open_netns, refuse_host
from ratchet.datapath.parse import NUD_LASTING, ObservedLink, neighbours_of, observe_link, read_link
from ratchet.datapath.rtnetlink import Channel, NetlinkReply, RefusedError
from ratchet.datapath.settings import announcing_addresses, reset_settings, with_settings
from ratchet.errors import DatapathError, ForeignInterfaceError, NamespaceGoneError

IPV6_LEAST_MTU = 1280  # RFC 8200, section 5
ATTEMPTS = 4  # how often to try again if another process changes the same names


@dataclass(frozen=True, slots=True)
class OpenPod:
    """A pod opened by `open_pod`; closed at the end of its block."""

    netns: Netns
    channel: Channel
    spec: InterfaceSpec

    def observe(self) -> ObservedLink | None:
        """The link under the interface's name; None if there is none."""
        try:  # most ends never have routes, and this code runs at each pod start
            routed = bool(self.spec.routes) or self.spec.renewed
            link = observe_link(
                self.channel, self.spec.ifname, self.spec.addresses, routed=routed, index=self.spec.index
            )
        except RefusedError as refusal:
            raise DatapathError(f"cannot read {self}: {refusal.strerror}") from refusal
        has_settings = self.spec.sysctls or not self.spec.offloads or self.spec.resets
        if link is None or not self.spec.owns(link.device) or not has_settings:
            return link
        return replace(link, device=self._with_settings(link.device))

    def tune(self) -> None:
        """Apply the settings that an interface needs before it is up.

        Router advertisements are ignored: the other end of a link must not become the pod's router (CVE-2020-10749).
        """
        ifname = self.spec.ifname
        with inside(self.netns):
            try:
                with suppress(FileNotFoundError):  # the pod has no IPv6, or the MTU is too small for it
                    sysctl.ignore_router_advertisements(ifname)
            except OSError as error:
                raise self._read_only("turn router advertisements off", error) from error
            for setting in self.spec.sysctls:
                self._set(setting)
            if not self.spec.offloads:
                try:
                    ethtool.disable_offloads(ifname)
                except OSError as error:
                    raise self.failed(f"cannot turn offloads off: {error.strerror}") from error

    def finish(self, index: int, link: str, standing: Device | None = None, *, carrier: bool = True) -> bool:
        """Set the interface up, unless it was up before, with its addresses, routes and rate.

        `standing` is the interface as observed before: what Ratchet added to it and the specification lacks is removed.
        Without `carrier` the interface has none from the first moment; with it the carrier is left alone. Returns
        False, with everything else done, if the kernel cannot take the carrier.
        """
        given = standing.given if standing is not None else ()
        give = [messages.give_address(index, address) for address in self.spec.addresses]
        take = [messages.take_address(index, address) for address in given if address not in self.spec.addresses]
        able, mark = True, []
        if standing is None or not standing.brought_up:
            able = self._bring_up(index, carrier=carrier)
            # Not in the same message: the kernel keeps the alias of a link that it refuses to set up.
            mark = [messages.brought_up(index, link)]
        self.do(*mark, *take, *give)
        self._route(index, standing)
        self._shape(index, standing.rate if standing is not None else None)
        return able

    def _bring_up(self, index: int, *, carrier: bool) -> bool:
        if not carrier:
            return self.set_carrier(index, False, messages.up(index))
        self.do(messages.up(index))
        return True

    def set_carrier(self, index: int, has: bool, *then: bytearray) -> bool:
        """Set or clear the interface's carrier and send the `then` requests.

        Returns False, with the other requests done, if the kernel does not support that for this kind of interface.
        """
        first, *others = self.channel.exchange(messages.carrier(index, has), *then)
        unable = first.refusal is not None and first.refusal.errno == EOPNOTSUPP
        self._accept(others if unable else (first, *others))
        return not unable

    def adjust(self, device: Device, link: str) -> None:
        """Change an existing interface to match the specification. One that its pod has set down stays down."""
        if device.mtu != self.spec.mtu:
            self.do(messages.sized(device.index, self.spec.mtu))
        if self.spec.txqlen not in (None, device.txqlen):
            self.do(messages.changed(device.index, self.spec.txqlen))
        self._reset(device)
        self.tune()
        self.finish(device.index, link, device)

    def _reset(self, device: Device) -> None:
        """Give the values of a new interface to what an earlier specification has set (`InterfaceSpec.resets`)."""
        if not (resets := self.spec.resets):
            return
        txqlen = DEFAULT_TXQLEN if "txqlen" in resets else None
        try:
            with inside(self.netns), announcing_addresses(self.spec.ifname):
                self.do(messages.changed(device.index, txqlen, self.spec.mac if "mac" in resets else ""))
                reset_settings(self.spec, device)
        except OSError as error:
            raise self.failed(f"cannot reset settings: {error.strerror}") from error

    def take_down(self, device: Device | None) -> bool:
        """Delete an interface; a vEth's peer goes with it, and a tunnel's place in the guard.

        Returns False if there is none.
        """
        if device is None:
            return False
        deleted = self.delete(device.index)
        if device.port is not None and device.vni is not None:
            tunnel_guard.withdraw(device.port, device.vni, self.owner(device.index))
        return deleted

    def owner(self, index: int) -> str:
        """The identity of an interface in this pod (`core.tunnel_guard.owner_of`)."""
        return owner_of(self.channel.cookie(), index)

    def free_index(self) -> bool:
        """Delete this end's interface if the pod has renamed it. Returns whether it was deleted.

        The ifindex identifies it. Raises DatapathError if a foreign interface has that ifindex.
        """
        if not self.spec.index:
            return False
        (answer,) = self.channel.exchange(messages.link_at(self.spec.index))
        if answer.refusal is not None:
            return False
        device = read_link(answer.messages[0]).device
        if device.ifname == self.spec.ifname:
            return False
        if not device.ours:
            raise self.failed(f"its ifindex {device.index} is that of {device.ifname}, which is not Ratchet's")
        return self.take_down(device)

    def delete(self, index: int) -> bool:
        """Delete an interface by index. Returns False if there is none."""
        (answer,) = self.channel.exchange(messages.drop_link(index))
        if answer.refusal is None:
            return True
        if answer.refusal.errno == ENODEV:
            return False
        raise DatapathError(f"cannot remove {self}: {answer.refusal.strerror}") from answer.refusal

    def forget_neighbours(self, index: int) -> None:
        """Flush the interface's learnt neighbours, so that the pod resolves them again. Keeps manual entries."""
        learnt = [one for one in neighbours_of(self.channel, index) if not one.state & NUD_LASTING]
        self.channel.exchange(*(messages.drop_neighbour(one.family, index, one.address) for one in learnt))

    def do(self, *requests: bytearray) -> None:
        self._accept(self.channel.exchange(*requests))

    def refuse_foreign(self, device: Device | None, verb: str = "make") -> None:
        """Raise ForeignInterfaceError if an interface is not Ratchet's or belongs to another link."""
        if device is None or self.spec.owns(device):
            return
        if device.ours:
            raise ForeignInterfaceError(
                f"cannot {verb} {self}: it belongs to another link (ifindex {device.index}, not {self.spec.index})",
                path=self.netns.path,
                details="The other link's end is given up first. See `ratchet links` for the pod's links.",
            )
        raise ForeignInterfaceError(
            f"cannot {verb} {self}: an interface of that name exists and is not Ratchet's",
            path=self.netns.path,
            details="Choose another interface name for the link, or remove the interface.",
        )

    def failed(self, cause: object, details: str = "") -> DatapathError:
        return DatapathError(f"cannot make {self}: {cause}", details=details)

    def _with_settings(self, device: Device) -> Device:
        try:
            with inside(self.netns):
                return with_settings(self.spec, device)
        except OSError as error:
            raise DatapathError(f"cannot read the settings of {self}: {error.strerror}") from error

    def _set(self, setting: Sysctl) -> None:
        name, value = setting
        try:
            sysctl.write_sysctl(self.spec.ifname, setting)
        except FileNotFoundError as error:
            raise self.failed(f"cannot set {name}: the pod has no such setting", details=_missing(name)) from error
        except OSError as error:
            if error.errno == EINVAL:
                raise self.failed(f"cannot set {name} to {value}: the kernel takes no such value") from error
            raise self._read_only(f"set {name}", error) from error

    def _route(self, index: int, standing: Device | None) -> None:
        """Add the specified routes that are missing, and remove Ratchet's routes that are not specified.

        Over an interface that its pod has set down, the kernel takes none.
        """
        has = standing.routes if standing is not None else ()
        for route in (one for one in has if one not in self.spec.routes):
            self.channel.exchange(messages.take_route(index, route))
        lacking = [one for one in self.spec.routes if one not in has]
        if not lacking:
            return
        answers = self.channel.exchange(*(messages.give_route(index, one) for one in lacking))
        for route, answer in zip(lacking, answers, strict=True):
            if answer.refusal is not None:
                if standing is not None and self._is_down(index):
                    return
                known = answer.refusal.errno == EEXIST
                cause = "the pod has another route with this metric" if known else answer.refusal.strerror
                details = "Declare another metric. The route with the smallest metric is used." if known else ""
                raise self.failed(f"cannot add the route {route}: {cause}", details=details) from answer.refusal

    def _is_down(self, index: int) -> bool:
        (answer,) = self.channel.exchange(messages.link_at(index))
        return answer.refusal is None and not read_link(answer.messages[0]).device.up

    def _shape(self, index: int, has: int | None) -> None:
        """Set or remove the rate limit if it differs from the specification."""
        if self.spec.rate == has:
            return
        request = tc.unshape(index) if self.spec.rate is None else tc.shape(index, self.spec.rate)
        (answer,) = self.channel.exchange(request)
        if answer.refusal is not None:
            details = "The node's kernel needs the module sch_tbf." if answer.refusal.errno == ENOENT else ""
            raise self.failed(f"cannot set its rate: {answer.refusal.strerror}", details) from answer.refusal

    def _read_only(self, what: str, error: OSError) -> DatapathError:
        return self.failed(
            f"cannot {what}: {error.strerror}",
            details=f"Ratchet needs a writable /proc/sys/net; in a container, mount the host's at {sysctl.MOUNTED}.",
        )

    def _accept(self, answers: Iterable[NetlinkReply]) -> None:
        for answer in answers:
            if answer.refusal is not None:
                raise self.failed(answer.refusal.strerror, details=self._advice(answer.refusal)) from answer.refusal

    def _advice(self, refusal: RefusedError) -> str:
        if refusal.errno == EACCES:
            return "The link has an IPv6 address and the pod has IPv6 disabled (net.ipv6.conf.all.disable_ipv6)."
        if (
            refusal.errno == EINVAL
            and self.spec.mtu < IPV6_LEAST_MTU
            and any(one.version == 6 for one in self.spec.addresses)
        ):
            return f"IPv6 needs an MTU of {IPV6_LEAST_MTU} bytes, and the link has one of {self.spec.mtu}."
        if refusal.errno == EINVAL:
            return "The MTU or an address does not suit this kind of interface."
        return ""

    def __str__(self) -> str:
        return f"{self.spec.ifname} in {self.netns.path}"


@contextmanager
def open_pod(spec: InterfaceSpec) -> Iterator[OpenPod]:
    """Open a pod's namespace and a netlink socket in it.

    Raises NamespaceGoneError if the namespace does not exist or another one has its path, HostNamespaceError for the
    caller's own namespace.
    """
    with open_netns(spec.netns) as netns:
        refuse_host(netns)
        with Channel(netns) as channel:
            if not is_cookie(spec.cookie, channel):
                raise NamespaceGoneError(
                    f"cannot use network namespace {spec.netns}: another namespace has this path now", path=spec.netns
                )
            yield OpenPod(netns, channel, spec)


def is_cookie(expected: int, channel: Channel) -> bool:
    """Whether a channel's namespace has the expected cookie; True if either cookie is not known."""
    return not expected or channel.cookie() in (0, expected)


def _missing(name: str) -> str:
    """Advice for a setting that the kernel does not have."""
    if name.startswith("net.mpls."):
        return "The node's kernel needs the module mpls_router."
    return "The node's kernel does not have it, or the pod has no IPv6." if name.startswith("net.ipv6.") else ""
