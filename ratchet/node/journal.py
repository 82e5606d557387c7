"""What a node remembers of its sandboxes, on disk: what each was given, which were deleted, who works on which link.

Small files, each put in place by a rename, all for root alone. Nothing here needs the API server: DEL finds what to
take down without it.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from ratchet.cni.config import DEFAULT_VXLAN_PORT
from ratchet.cni.delegation import Delegation
from ratchet.core.model import Link, Location, PodRef, Side
from ratchet.errors import MalformedRecordError, RatchetError
from ratchet.node.locks import LOCK_SECONDS, KeyedLocks, Locks
from ratchet.node.private import create_private, unwritable
from ratchet.node.sites import Underlay
from ratchet.store.codec import decode_link, encode_link

TOMBSTONE_SECONDS = 3600.0
PURGE_SECONDS = 60.0
BURIED_KEPT = 1024
_Version = tuple[int, int, int]  # of a file: inode, time of the last change in ns, size in bytes
Key = TypeVar("Key")
_SINCE_BOOT = time.CLOCK_BOOTTIME


@dataclass(frozen=True, slots=True)
class Attachment:
    """What the runtime attaches: one interface name of one container, in one network (SPEC.md, "Parameters")."""

    network: str
    container_id: str
    ifname: str

    @property
    def file_name(self) -> str:
        # No container id holds a `+`, so no two attachments share a file; a network's name may be of any length.
        return f"{self.interface_key}+{sha256(self.network.encode()).hexdigest()[:12]}"

    @property
    def interface_key(self) -> str:
        """The container and its interface, whatever the network's name is."""
        return f"{self.container_id}+{self.ifname}"


@dataclass(frozen=True, slots=True)
class HeldEnd:
    """An end that this sandbox has, or may have, joined; `wanted` is the link as it was declared then.

    `side` is the sandbox's end of `wanted`; the record may have the roles the other way round. `index` is the ifindex
    reserved for the interface (`core.model.Location`), noted before the interface is made. `declared`: the pod itself
    declares the link, which holds for as long as its sandbox lives.
    """

    wanted: Link
    side: Side
    index: int = 0
    declared: bool = True

    @property
    def link(self) -> str:
        return self.wanted.name

    @property
    def ifname(self) -> str:
        return self.wanted.end(self.side).ifname


@dataclass(frozen=True, slots=True)
class SandboxEntry:
    """One attachment as ADD left it: whose it is, where it is, its ends and what its delegates were given.

    `cookie` is the identity of the namespace at `netns` (SO_NETNS_COOKIE), valid within `boot`; 0: it was not read.
    `asks`: links are to be made for it. `began`: when the runtime called, in seconds since boot. `underlay`: what its
    configuration says of the node's side of tunnels. `boot`: the kernel's name for the boot in which it was noted,
    filled in by the journal.
    """

    attachment: Attachment
    netns: str
    pod: PodRef | None = None
    ends: tuple[HeldEnd, ...] = ()
    delegations: tuple[Delegation, ...] = ()
    asks: bool = False
    began: float = 0.0
    underlay: Underlay | None = None
    cookie: int = 0
    boot: str = field(default="", compare=False)

    def location(self, end: HeldEnd) -> Location:
        """Where the interface of one of its ends is."""
        return Location(self.netns, self.cookie, end.index)

    def is_in(self, location: Location) -> bool:
        """Whether its namespace is that of a location: by cookie where both are known, else by path."""
        if self.cookie and location.cookie:
            return self.cookie == location.cookie
        return self.netns == location.netns


class Journal:
    """The node's memory under `state_dir` (default /var/lib/cni/ratchet). Raises RatchetError where it cannot write.

    With `remembers` all entries are kept in memory too, for one who stays and is the only one that writes them; what
    others wrote is learnt by `reload`.
    """

    def __init__(self, state_dir: str | Path, lock_seconds: float = LOCK_SECONDS, *, remembers: bool = False) -> None:
        self._memory: _Index | None = None
        # What becomes of memory while it is read anew, by attachment; None while it is not.
        self._meanwhile: dict[Attachment, SandboxEntry | None] | None = None
        self._remembering = threading.Lock()
        self._root = Path(state_dir)
        self._sandboxes = self._root / "sandboxes"
        self._deleted = self._root / "deleted"
        self._locks = Locks(self._root / "links.lock", lock_seconds)
        self._entry_locks = KeyedLocks()
        self._buried: dict[str, float] = {}
        self._purged = float("-inf")
        self._decoded: dict[Path, tuple[_Version, SandboxEntry]] = {}
        if remembers:
            self.reload()

    def reload(self) -> None:
        """Remember what is there now, and clear away what nobody needs. Not for two threads at once."""
        with self._remembering:
            before = self._memory.entries() if self._memory is not None else []
            self._meanwhile = {}
        try:
            read = {entry.attachment: entry for entry in self._read_all()}
        except RatchetError:
            with self._remembering:
                self._meanwhile = None
            raise
        for entry in before:
            # A file that cannot be read just now is no sandbox that has gone.
            if entry.attachment not in read and (self._sandboxes / entry.attachment.file_name).exists():
                read[entry.attachment] = entry
        with self._remembering:
            read.update((key, entry) for key, entry in self._meanwhile.items() if entry is not None)
            for gone in [key for key, entry in self._meanwhile.items() if entry is None]:
                read.pop(gone, None)
            self._memory, self._meanwhile = _Index(list(read.values())), None
        self._purge()

    def write(self, entry: SandboxEntry) -> None:
        entry = replace(entry, boot=boot_id())
        self._put(self._sandboxes / entry.attachment.file_name, _document_of(entry))
        self._remember(entry)

    def begin(self, entry: SandboxEntry) -> bool:
        """Write the entry of an ADD that begins; False, and nothing is written, where there is one of that attachment.

        Of several at once one alone is told True.
        """
        entry = replace(entry, boot=boot_id())
        path = self._sandboxes / entry.attachment.file_name
        if path.exists() and self._entry(path) is None:
            self.forget(entry.attachment)  # what cannot be read is as nothing
        try:
            self._put(path, _document_of(entry), anew=True)
        except FileExistsError:
            return False
        self._remember(entry)
        return True

    def change_ends(self, attachment: Attachment, change: Callable[[tuple[HeldEnd, ...]], tuple[HeldEnd, ...]]) -> bool:
        """Note other ends of a sandbox; False where nothing is noted of it any more."""
        with self._entry_locks.of(attachment.file_name):
            entry = self.read(attachment)
            if entry is None:
                return False
            ends = change(entry.ends)
            if ends != entry.ends:
                self.write(replace(entry, ends=ends))
            return True

    def read(self, attachment: Attachment) -> SandboxEntry | None:
        """What ADD noted; None where it noted nothing, or what it noted cannot be read."""
        if self._memory is not None and (known := self._memory.get(attachment)) is not None:
            return known
        return self._entry(self._sandboxes / attachment.file_name)

    def to_delete(self, attachment: Attachment) -> list[SandboxEntry]:
        """The entries that a DEL of this attachment ends.

        The operator can rename the network between ADD and DEL. If the attachment has no entry, these are the entries
        of its container and interface under other network names. Raises RatchetError if they cannot be listed.
        """
        entry = self.read(attachment)
        return [entry] if entry is not None else self._under_other_networks(attachment)

    def _under_other_networks(self, attachment: Attachment) -> list[SandboxEntry]:
        """The entries of a container's interface. Only files whose names begin with both are read."""
        found = self._read_all(f"{attachment.interface_key}+")
        return [entry for entry in found if entry.attachment.interface_key == attachment.interface_key]

    def still_wants(self, entry: SandboxEntry, end: HeldEnd) -> bool:
        """Whether an end is to be made for the sandbox of an entry that was read before: its ADD has not failed since,
        it was not deleted, no other ADD of the same attachment has begun, and the link is one of its links yet."""
        current = self.read(entry.attachment)
        if current is None or not current.asks or current.began != entry.began:
            return False
        return any((one.link, one.side) == (end.link, end.side) for one in current.ends)

    def forget(self, attachment: Attachment) -> None:
        path = self._sandboxes / attachment.file_name
        with self._entry_locks.of(attachment.file_name):
            self._decoded.pop(path, None)
            try:
                path.unlink(missing_ok=True)
            except NotADirectoryError:
                pass  # then nothing can have been noted
            except OSError as cause:
                raise unwritable(path, cause) from cause
            self._remember_none(attachment)

    def entries(self) -> list[SandboxEntry]:
        """Every sandbox noted on this node."""
        return self._memory.entries() if self._memory is not None else self._read_all()

    def of_container(self, container_id: str) -> list[SandboxEntry]:
        """The entries of a container's attachments."""
        if self._memory is not None:
            return self._memory.of_container(container_id)
        return self._read_all(f"{container_id}+")

    def of_pod(self, namespace: str, name: str) -> list[SandboxEntry]:
        """The entries of the sandboxes of pods with this namespace and name."""
        entries = self._memory.of_pod(namespace, name) if self._memory is not None else self._read_all()
        return [one for one in entries if one.pod and (one.pod.namespace, one.pod.name) == (namespace, name)]

    def location(self, link: str, container_id: str) -> Location | None:
        """Where the interface of a sandbox's end of this link is; None where this node holds no such end."""
        entries = self.of_container(container_id)
        return next((entry.location(end) for entry in entries for end in entry.ends if end.link == link), None)

    def is_anothers(self, location: Location, ifname: str, container_id: str, link: str = "") -> bool:
        """Whether an interface is that of another sandbox's end or, with `link`, of another link's end.

        A late DEL and the clean-up of an old link must not remove it.
        """
        for entry in self.entries():
            # Cookies are counted from the start in each boot; the namespaces of a former one are gone.
            if entry.boot not in ("", boot_id()) or not entry.is_in(location):
                continue
            for end in entry.ends:
                same = entry.attachment.container_id == container_id and link in ("", end.link)
                if end.ifname == ifname and not same:
                    return True
        return False

    def holding(self, link: str) -> list[tuple[SandboxEntry, HeldEnd]]:
        """The sandboxes that have, or may have, joined a link, each with its end."""
        entries = self._memory.holding(link) if self._memory is not None else self._read_all()
        return [(entry, end) for entry in entries for end in entry.ends if end.link == link]

    def _read_all(self, start: str = "") -> list[SandboxEntry]:
        """The entries on disk, in files whose names start so."""
        try:
            paths = sorted(path for path in self._sandboxes.iterdir() if path.name.startswith(start))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as cause:
            raise RatchetError(f"cannot read {self._sandboxes}: {cause.strerror}") from cause
        found = (self._entry(path) for path in paths if not path.name.startswith("."))
        return [entry for entry in found if entry is not None]

    def _remember(self, entry: SandboxEntry) -> None:
        with self._remembering:
            if self._memory is not None:
                self._memory.put(entry)
            if self._meanwhile is not None:
                self._meanwhile[entry.attachment] = entry

    def _remember_none(self, attachment: Attachment) -> None:
        with self._remembering:
            if self._memory is not None:
                self._memory.forget(attachment)
            if self._meanwhile is not None:
                self._meanwhile[attachment] = None

    def _entry(self, path: Path) -> SandboxEntry | None:
        """The entry in a file, decoded once for each version of the file; None where it cannot be read."""
        try:
            status = path.stat()
        except OSError:
            return None
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._decoded.get(path)
        if known is not None and known[0] == version:
            return known[1]
        entry = _entry(path)
        if entry is not None:
            self._decoded[path] = (version, entry)
        return entry

    def bury(self, attachment: Attachment, at: float) -> bool:
        """Note that the runtime deleted the attachment, so that an ADD that still runs takes down what it made.

        `at` is when, in seconds since boot. True where an earlier DEL had noted it already. The tombstone is of the
        container and the interface: an ADD that runs under an earlier name of the network has to see it too.
        """
        path = self._deleted / attachment.interface_key
        earlier = _document(path)
        again = earlier is not None and earlier.get("network") == attachment.network
        at = min(at, since_boot())
        if self._memory is not None:
            self._bury_in_memory(attachment, at)
        self._put(path, {"boot": boot_id(), "at": at, "network": attachment.network})
        self._purge()
        return again

    def is_deleted(self, container_id: str) -> bool:
        """Whether DEL has come, since this boot, for any attachment of a container."""
        return any(key.startswith(f"{container_id}+") for key in list(self._buried)) or any(
            (tombstone := _document(path)) is not None and tombstone.get("boot") == boot_id()
            for path in self._deleted.glob(f"{container_id}+*")
        )

    def is_buried(self, attachment: Attachment, began: float) -> bool:
        """Whether DEL came after `began` (seconds since boot): an ADD that the runtime began later is a new one."""
        if self._buried.get(attachment.interface_key, float("-inf")) >= began:
            return True
        tombstone = _document(self._deleted / attachment.interface_key)
        if tombstone is None or tombstone.get("boot") != boot_id():
            return False
        at = tombstone.get("at")
        return isinstance(at, int | float) and at >= began

    def lock(self, link: str) -> AbstractContextManager[None]:
        """The critical section of one link on this node; the kernel frees it with the process that holds it.

        Raises TryAgainError where another holds it for `lock_seconds`.
        """
        return self._locks.held(link)

    def sandbox_lock(self, container_id: str) -> AbstractContextManager[None]:
        """The critical section in which the attachments of one container take their ends.

        Raises TryAgainError as `lock` does.
        """
        return self._locks.held(f"sandbox/{container_id}")

    def _bury_in_memory(self, attachment: Attachment, at: float) -> None:
        """What the threads of one who stays know of a DEL where the disk takes nothing more."""
        self._buried.pop(attachment.interface_key, None)
        self._buried[attachment.interface_key] = at
        while len(self._buried) > BURIED_KEPT:
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread has been quicker
                del self._buried[next(iter(self._buried))]

    def _purge(self) -> None:
        """Clear away old tombstones, and what those who were killed have left half written."""
        now = since_boot()
        if now - self._purged < PURGE_SECONDS:
            return
        self._purged = now
        oldest = time.time() - TOMBSTONE_SECONDS
        for path in self._sandboxes.glob(".*"):
            with suppress(OSError):  # gone already, or on a disk that takes nothing: it is tried again
                if path.stat().st_mtime < oldest:
                    path.unlink()
        for path in self._deleted.glob("*"):
            with suppress(OSError):
                # The file's time is cheap to ask for, but by a clock that steps; what it holds is not.
                if path.stat().st_mtime < oldest and _is_of_long_ago(_document(path), now):
                    path.unlink()

    def _put(self, path: Path, document: dict[str, Any], *, anew: bool = False) -> None:
        """Put a document in place, whole. Raises RatchetError; with `anew`, FileExistsError where there is one."""
        partial = path.with_name(f".{os.getpid()}.{random.getrandbits(32):08x}")
        try:
            descriptor = create_private(partial, os.O_EXCL | os.O_WRONLY)
            try:
                _write_all(descriptor, json.dumps(document).encode())
            finally:
                os.close(descriptor)
            if anew:
                os.link(partial, path)
                partial.unlink()
            else:
                partial.rename(path)
        except OSError as cause:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            if anew and isinstance(cause, FileExistsError):
                raise
            raise unwritable(path, cause) from cause


class _Index:
    """The entries, by attachment and by the links that they hold."""

    def __init__(self, entries: list[SandboxEntry]) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Attachment, SandboxEntry] = {}
        self._of_links: dict[str, set[Attachment]] = {}
        self._of_containers: dict[str, set[Attachment]] = {}
        self._of_pods: dict[tuple[str, str], set[Attachment]] = {}
        for entry in entries:
            self.put(entry)

    def put(self, entry: SandboxEntry) -> None:
        with self._lock:
            self._take_out(entry.attachment)
            self._entries[entry.attachment] = entry
            self._of_containers.setdefault(entry.attachment.container_id, set()).add(entry.attachment)
            if entry.pod is not None:
                self._of_pods.setdefault((entry.pod.namespace, entry.pod.name), set()).add(entry.attachment)
            for end in entry.ends:
                self._of_links.setdefault(end.link, set()).add(entry.attachment)

    def forget(self, attachment: Attachment) -> None:
        with self._lock:
            self._take_out(attachment)

    def get(self, attachment: Attachment) -> SandboxEntry | None:
        return self._entries.get(attachment)

    def entries(self) -> list[SandboxEntry]:
        with self._lock:
            return list(self._entries.values())

    def holding(self, link: str) -> list[SandboxEntry]:
        with self._lock:
            return [self._entries[attachment] for attachment in self._of_links.get(link, ())]

    def of_container(self, container_id: str) -> list[SandboxEntry]:
        with self._lock:
            return [self._entries[attachment] for attachment in self._of_containers.get(container_id, ())]

    def of_pod(self, namespace: str, name: str) -> list[SandboxEntry]:
        with self._lock:
            return [self._entries[attachment] for attachment in self._of_pods.get((namespace, name), ())]

    def _take_out(self, attachment: Attachment) -> None:
        entry = self._entries.pop(attachment, None)
        if entry is None:
            return
        _discard(self._of_containers, attachment.container_id, attachment)
        if entry.pod is not None:
            _discard(self._of_pods, (entry.pod.namespace, entry.pod.name), attachment)
        for end in entry.ends:
            _discard(self._of_links, end.link, attachment)


def _discard(index: dict[Key, set[Attachment]], key: Key, attachment: Attachment) -> None:
    attachments = index.get(key, set())
    attachments.discard(attachment)
    if not attachments:
        index.pop(key, None)


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def since_boot() -> float:
    """Seconds since boot, suspended time included (clock_gettime(2), CLOCK_BOOTTIME)."""
    return time.clock_gettime(_SINCE_BOOT)


@cache
def boot_id() -> str:
    """The kernel's name for this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _is_of_long_ago(tombstone: dict[str, Any] | None, now: float) -> bool:
    at = tombstone.get("at") if tombstone and tombstone.get("boot") == boot_id() else None
    return not isinstance(at, int | float) or at < now - TOMBSTONE_SECONDS


def _document(path: Path) -> dict[str, Any] | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # most often there is none, which costs open() much more
        with os.fdopen(descriptor, "rb") as file:
            document = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _document_of(entry: SandboxEntry) -> dict[str, Any]:
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
        "ends": [_document_of_end(end) for end in entry.ends],
        "delegations": [delegation.to_json() for delegation in entry.delegations],
        "underlay": _encode_underlay(entry.underlay) if entry.underlay else None,
        "boot": entry.boot,
    }


def _entry(path: Path) -> SandboxEntry | None:
    document = _document(path)
    if document is None:
        return None
    try:
        pod, underlay = document["pod"], document["underlay"]
        return SandboxEntry(
            Attachment(document["network"], document["container_id"], document["ifname"]),
            document["netns"],
            PodRef(pod["namespace"], pod["name"], pod["uid"], pod.get("mirror", "")) if pod else None,
            tuple(_held_end(end) for end in document["ends"]),
            tuple(Delegation.from_json(one) for one in document["delegations"]),
            bool(document["asks"]),
            float(document["began"]),
            _decode_underlay(underlay) if underlay else None,
            int(document.get("cookie", 0)),
            document["boot"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, MalformedRecordError):
        return None


def _document_of_end(end: HeldEnd) -> dict[str, Any]:
    return {"side": end.side.value, "wanted": encode_link(end.wanted), "ifindex": end.index, "declared": end.declared}


def _held_end(document: dict[str, Any]) -> HeldEnd:
    """An end. One that an earlier version has noted has no ifindex, and is declared by the primary."""
    side = Side(document["side"])
    declared = bool(document.get("declared", side is Side.PRIMARY))
    return HeldEnd(decode_link(document["wanted"]), side, int(document.get("ifindex", 0)), declared)


def _encode_underlay(underlay: Underlay) -> dict[str, Any]:
    """An underlay; `vxlan_port` is always a number, because earlier versions read no other."""
    return {
        "interface": underlay.interface,
        "address": underlay.address,
        "vxlan_port": underlay.vxlan_port or DEFAULT_VXLAN_PORT,
        "vxlan_port_is_set": underlay.vxlan_port is not None,
    }


def _decode_underlay(document: dict[str, Any]) -> Underlay:
    """An underlay; the default port of an earlier version's entry is taken as not set, because it mostly was not."""
    port = document["vxlan_port"]
    is_set = document.get("vxlan_port_is_set", port != DEFAULT_VXLAN_PORT)
    return Underlay(document["interface"], document["address"], port if is_set else None)
