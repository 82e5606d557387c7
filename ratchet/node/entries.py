"""The journal's entries, one for each attachment of a sandbox, and their JSON encoding."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from ratchet.cni.delegation import Delegation
from ratchet.cni.plugin_keys import DEFAULT_VXLAN_PORT
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link, Side
from ratchet.core.panel import PanelSlot, is_attachment_group
from ratchet.core.pod import PodRef
from ratchet.core.sandbox import Location
from ratchet.errors import MalformedRecordError
from ratchet.node.underlay import UnderlayConfig
from ratchet.store.codec.links import decode_link, encode_link

# Entries with more ends have an index of them. Each reconciliation of a link looks for its end several times, so a scan
# would make the cost of a pod quadratic in its links.
INDEXED_ENDS = 8


class Attachment(NamedTuple):
    """A CNI attachment: one interface name of one container in one network (SPEC.md, "Parameters")."""

    network: str
    container_id: str
    ifname: str

    @property
    def file_name(self) -> str:
        # No container ID holds a `+`, so no two attachments share a file. A network's name can have any length.
        return f"{self.interface_key}+{sha256(self.network.encode()).hexdigest()[:12]}"

    @property
    def interface_key(self) -> str:
        """The key of the container and its interface, independent of the network's name."""
        return f"{self.container_id}+{self.ifname}"


@dataclass(frozen=True, slots=True)
class HeldEnd:
    """An end that this sandbox has joined, or may have joined; `wanted` is the link as declared then.

    `side` is the sandbox's end of `wanted`; the record may have the roles reversed. `index` is the ifindex reserved for
    the interface (`core.sandbox.Location`), written before the interface is created. `declared`: the pod itself
    declares the link; the declaration is valid for as long as its sandbox lives. `live`: a topology declares the link,
    and the end follows its edits.
    """

    wanted: Link
    side: Side
    index: int = 0
    declared: bool = True
    live: bool = False

    @property
    def link(self) -> str:
        return self.wanted.name

    @property
    def ifname(self) -> str:
        return self.wanted.end(self.side).ifname


@dataclass(frozen=True, slots=True)
class SandboxEntry:
    """One attachment as ADD left it: its pod and namespace, its ends, and its delegations.

    `cookie` is the identity of the namespace at `netns` (SO_NETNS_COOKIE), valid within `boot`. 0: it was not read.
    `asks`: the attachment is to get links. `began`: when the runtime called ADD, in seconds since boot. `underlay`: the
    underlay settings of its network configuration. `boot`: the kernel's ID of the boot in which the entry was written;
    the journal sets it. `slot`: its place in the patch panel; None if it has no link in panel wiring.

    No two ends are of one link (`reservation`).
    """

    attachment: Attachment
    netns: str
    pod: PodRef | None = None
    ends: tuple[HeldEnd, ...] = ()
    delegations: tuple[Delegation, ...] = ()
    asks: bool = False
    began: float = 0.0
    underlay: UnderlayConfig | None = None
    cookie: int = 0
    boot: str = field(default="", compare=False)
    slot: PanelSlot | None = None
    _by_link: dict[str, HeldEnd] | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if len(self.ends) > INDEXED_ENDS:
            object.__setattr__(self, "_by_link", {end.link: end for end in self.ends})

    def end_of(self, link: str) -> HeldEnd | None:
        """The sandbox's end of a link; None if it has none."""
        if self._by_link is not None:
            return self._by_link.get(link)
        return next((end for end in self.ends if end.link == link), None)

    @property
    def needs_slot(self) -> bool:
        """Whether one of its links is in panel wiring."""
        return any(end.wanted.wiring is Wiring.PANEL for end in self.ends)

    def location(self, end: HeldEnd) -> Location:
        """The location of the interface of one of its ends."""
        return Location(self.netns, self.cookie, end.index, self.slot)

    def is_in(self, location: Location) -> bool:
        """Whether its namespace is that of a location: compared by cookie if both are known, else by path."""
        if self.cookie and location.cookie:
            return self.cookie == location.cookie
        return self.netns == location.netns


def is_held_by_another(
    entries: Iterable[SandboxEntry], ifname: str, container_id: str, link: str = "", boot: str = ""
) -> bool:
    """Whether an interface belongs to another container's end or, with `link`, to another link's end.

    `entries` are those of one network namespace. Cookies are valid within one boot, so entries of another one than
    `boot` do not count: their namespaces are gone. Without a link, the container's own ends are not compared, because
    DEL asks for each of them.
    """
    for entry in entries:
        own = entry.attachment.container_id == container_id
        if entry.boot not in ("", boot) or (own and not link):
            continue
        if any(end.ifname == ifname and not (own and end.link == link) for end in entry.ends):
            return True
    return False


def encode_entry(entry: SandboxEntry) -> dict[str, Any]:
    """Encode an entry as a JSON document."""
    pod = entry.pod
    return {
        "network": entry.attachment.network,
        "container_id": entry.attachment.container_id,
        "ifname": entry.attachment.ifname,
        "netns": entry.netns,
        "cookie": entry.cookie,
        "pod": asdict(pod) if pod else None,
        "asks": entry.asks,
        "began": entry.began,
        "ends": [_encode_end(end) for end in entry.ends],
        "delegations": [delegation.to_json() for delegation in entry.delegations],
        "underlay": _encode_underlay(entry.underlay) if entry.underlay else None,
        "boot": entry.boot,
        "panel": entry.slot._asdict() if entry.slot else None,
    }


def decode_entry(document: dict[str, Any] | None) -> SandboxEntry | None:
    """Decode an entry from a JSON document; None if the document holds no valid entry."""
    if document is None:
        return None
    try:
        pod, underlay = document["pod"], document["underlay"]
        return SandboxEntry(
            Attachment(_text(document["network"]), _text(document["container_id"]), _text(document["ifname"])),
            _text(document["netns"]),
            _decode_pod(pod) if pod else None,
            tuple(_decode_end(end) for end in document["ends"]),
            tuple(Delegation.from_json(one) for one in document["delegations"]),
            bool(document["asks"]),
            float(document["began"]),
            _decode_underlay(underlay) if underlay else None,
            int(document.get("cookie", 0)),
            document["boot"],
            _decode_slot(document.get("panel")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, MalformedRecordError):
        return None


def _decode_pod(document: dict[str, Any]) -> PodRef:
    namespace, name, uid = (_text(document[key]) for key in ("namespace", "name", "uid"))
    return PodRef(namespace, name, uid, _text(document.get("mirror", "")))


def _decode_slot(document: dict[str, Any] | None) -> PanelSlot | None:
    """Decode a place in the panel; None in an entry of an earlier version. Raises ValueError."""
    if document is None:
        return None
    slot = PanelSlot(_text(document["path"]), int(document["group"]))
    if not is_attachment_group(slot.group):
        raise ValueError(f"{slot.group:#x} is not the group of an attachment")
    return slot


def _text(value: object) -> str:
    """Intern a string, so that entries share equal strings in memory. Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not a text")
    return sys.intern(value)


def _encode_end(end: HeldEnd) -> dict[str, Any]:
    encoded = {"side": end.side.value, "wanted": encode_link(end.wanted), "ifindex": end.index}
    return {**encoded, "declared": end.declared, "live": end.live}


def _decode_end(document: dict[str, Any]) -> HeldEnd:
    """Decode an end. An end that an earlier version wrote has no ifindex and is declared by the primary."""
    side = Side(document["side"])
    declared = bool(document.get("declared", side is Side.PRIMARY))
    live = bool(document.get("live", False))
    return HeldEnd(decode_link(document["wanted"]), side, int(document.get("ifindex", 0)), declared, live)


def _encode_underlay(underlay: UnderlayConfig) -> dict[str, Any]:
    """Encode the underlay settings; `vxlan_port` is always a number, because earlier versions require one."""
    return {
        "interface": underlay.interface,
        "address": underlay.address,
        "vxlan_port": underlay.vxlan_port or DEFAULT_VXLAN_PORT,
        "vxlan_port_is_set": underlay.vxlan_port is not None,
        "guard": underlay.guard,
    }


def _decode_underlay(document: dict[str, Any]) -> UnderlayConfig:
    """Decode the underlay settings.

    The default port in an earlier version's entry counts as not set, because in most cases it was not set.
    """
    port = document["vxlan_port"]
    is_set = document.get("vxlan_port_is_set", port != DEFAULT_VXLAN_PORT)
    return UnderlayConfig(document["interface"], document["address"], port if is_set else None, document.get("guard"))
