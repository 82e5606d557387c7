"""The existing interface of a sandbox's end: observe its connection, disconnect it, remove it."""

from __future__ import annotations

from contextlib import suppress

from ratchet import datapath
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link
from ratchet.core.plan import Attempt
from ratchet.core.underlay import Underlay
from ratchet.core.wires import cable_wire
from ratchet.errors import ForeignInterfaceError, NamespaceGoneError
from ratchet.node.journal import Journal
from ratchet.node.teardown import take_down


class EndInterface:
    """The interface of the end that a sandbox attempts to take. The caller holds the link's lock."""

    def __init__(self, journal: Journal, attempt: Attempt, underlay: Underlay) -> None:
        self._journal = journal
        self._attempt = attempt
        self._underlay = underlay
        self._link = attempt.name
        self._container_id = attempt.container_id
        self._location = attempt.location
        self._ifname = attempt.wanted.end(attempt.side).ifname

    def is_connected(self) -> bool | None:
        """Whether it looks as if the peer were ready: it is a vEth, or a tunnel with carrier. None if unknown."""
        with suppress(ForeignInterfaceError, NamespaceGoneError):
            device = datapath.observe_port(self._location, self._ifname)
            return device is not None and (device.kind == "veth" or device.carrier)
        return None

    def disconnect(self) -> None:
        """Disconnect the end from a peer that is gone: take a tunnel's carrier, remove a vEth."""
        with suppress(ForeignInterfaceError):
            device = datapath.observe_port(self._location, self._ifname)
            if device is not None and device.kind == "veth":
                self.take_down()
            elif device is not None:
                datapath.unplug(self._location, self._ifname)

    def remove_tunnel(self, record: Link) -> None:
        """Remove the tunnel of a record whose VNI is to be freed: the interface, or what a cable is patched to."""
        if record.wiring is Wiring.DIRECT:
            self.take_down()
            return
        side = self._attempt.as_recorded(record).side
        with suppress(ForeignInterfaceError, NamespaceGoneError):
            datapath.build(cable_wire(record, side, self._underlay, self._location, keeps_tunnel=False))

    def take_down(self) -> None:
        take_down(self._journal, self._container_id, self._location, self._ifname, self._link)
