"""Fakes of the API server, the journal and the kernel, which turn each call into a request.

The fakes have no state. They pass each request to the driver of the process (`ask`), and the answer comes from a
`World`. So the test chooses the order in which processes access the world. Everything between two requests is the code
that runs on nodes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol, TypeVar
from unittest.mock import patch

from ratchet.agent import controller, handover, liveness
from ratchet.core.interface import Device, Observed, Parent, PatchWire, Wire
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link
from ratchet.core.panel import GROUP_LEAST, PanelSlot
from ratchet.core.sandbox import Location
from ratchet.errors import (
    ApiUnavailableError,
    ConflictError,
    ForeignInterfaceError,
    NamespaceGoneError,
    VniForeignError,
    VniInUseError,
)
from ratchet.node import (
    add,
    attach,
    call,
    delete,
    end_interface,
    endpoint_reconcile,
    reconciler,
    record_writer,
    teardown,
    underlay,
)
from ratchet.node.journal import Attachment, HeldEnd, Journal, SandboxEntry
from ratchet.node.panel_slots import PanelSlots
from ratchet.store import links, listwatch, vni
from ratchet.store.api_errors import AlreadyExistsError, ForbiddenError, NotFoundError
from ratchet.store.apiserver import MERGE_PATCH, ApiServer, Decoded
from ratchet.store.codec.links import decode_link
from ratchet.store.session import Json, Watched
from tests.protocol.namespaces import location_of

Request = tuple[Any, ...]
Outcome = TypeVar("Outcome")
Thing = TypeVar("Thing")


class Failure(NamedTuple):
    """An answer that is an error. `about` is the missing namespace's path, an object's path, or a VNI."""

    kind: str
    about: str = ""


class Driver(Protocol):
    """The driver of a process: it answers requests and replaces retries, threads and the clock."""

    node: str

    def ask(self, request: Request) -> Any: ...

    def retry_on_conflict(self, decide: Callable[[], Outcome]) -> Outcome: ...

    def map_concurrently(self, act: Callable[[Thing], Outcome], things: Sequence[Thing]) -> list[Outcome]: ...

    def clock(self) -> float: ...


class _ThreadState(threading.local):
    driver: Driver | None = None


_thread_state = _ThreadState()


def current_driver() -> Driver:
    if _thread_state.driver is None:
        raise AssertionError("nobody runs this process")
    return _thread_state.driver


@contextmanager
def run_by(driver: Driver) -> Iterator[None]:
    """Within the block, `driver` answers this thread's requests."""
    before, _thread_state.driver = _thread_state.driver, driver
    try:
        yield
    finally:
        _thread_state.driver = before


def ask(*request: Any) -> Any:
    """Make a request and return the answer. If the answer is a `Failure`, raise its error."""
    answer = current_driver().ask(request)
    if isinstance(answer, Failure):
        raise _error(answer)
    return answer


class FakeApi(ApiServer):
    """An API server that turns calls into requests.

    Without `keeps_history`, records are stored without their history, which would make the number of states infinite.
    """

    def __init__(self, keeps_history: bool = False) -> None:
        self._keeps_history = keeps_history

    def get(self, path: str) -> Json:
        return _object(ask("get", path))

    def list_decoded(self, path: str, decode: Callable[[Json], Decoded], **query: str) -> tuple[list[Decoded], str]:
        texts, version = ask("list", path, query.get("labelSelector", ""))
        return [decode(_object(text)) for text in texts], version

    def list_metadata(self, path: str, decode: Callable[[Json], Decoded], **query: str) -> list[Decoded]:
        return [decode(_object(text)) for text in ask("glance", path, query.get("labelSelector", ""))]

    def has_any(self, path: str, **query: str) -> bool:
        return bool(self.list(path, **query)[0])

    def create(self, path: str, body: Json) -> Json:
        return _object(ask("create", path, self._text(body)))

    def patch(self, path: str, body: Json, content_type: str = MERGE_PATCH) -> Json:
        return _object(ask("patch", path, self._text(body)))

    def delete(self, path: str, *, uid: str, resource_version: str = "", grace_seconds: int | None = None) -> None:
        ask("delete", path, uid, resource_version)

    def watch(self, path: str, resource_version: str, seconds: float, **query: str) -> Iterator[Watched]:
        until, version = current_driver().clock() + seconds, resource_version
        while True:
            events = ask("watch", path, version, query.get("labelSelector", ""), until)
            if not events:
                return
            for kind, text in events:
                version = _object(text)["metadata"]["resourceVersion"]
                yield Watched(kind, _object(text))

    def watch_decoded(
        self, path: str, resource_version: str, seconds: float, decode: Callable[[Watched], Decoded], **query: str
    ) -> Iterator[Decoded]:
        return map(decode, self.watch(path, resource_version, seconds, **query))

    def _text(self, body: Json) -> str:
        if not self._keeps_history and "data" in body:
            body = {**body, "data": {key: value for key, value in body["data"].items() if key != "history"}}
        return json.dumps(body, sort_keys=True)


SLOT = PanelSlot("/run/netns/panel", GROUP_LEAST)


def slot_for(link: Link) -> PanelSlot | None:
    """The place in the panel of a sandbox with this link. No scene depends on which one it is."""
    return SLOT if link.wiring is Wiring.PANEL else None


class FakeSlots(PanelSlots):
    """Gives each entry that needs one the same place in the panel."""

    def __init__(self) -> None: ...

    def claim(self, attachment: Attachment) -> PanelSlot:
        return SLOT


class FakeJournal(Journal):
    """A journal that turns calls into requests. `locking=False` omits the link lock, for a mutation."""

    def __init__(self, locking: bool = True) -> None:
        self._locking = locking
        self.slots = FakeSlots()

    def write(self, entry: SandboxEntry, *, may_defer: bool = False) -> None:
        ask("write", entry)

    def read(self, attachment: Attachment) -> SandboxEntry | None:
        found: SandboxEntry | None = ask("read", attachment)
        return found

    def to_delete(self, attachment: Attachment) -> list[SandboxEntry]:
        found = self.read(attachment)
        return [] if found is None else [found]  # no scene renames a network

    def forget(self, attachment: Attachment) -> None:
        ask("forget", attachment)

    def entries(self) -> list[SandboxEntry]:
        return list(ask("entries"))

    def of_container(self, container_id: str) -> list[SandboxEntry]:
        return list(ask("of_container", container_id))

    def of_pod(self, namespace: str, name: str) -> list[SandboxEntry]:
        found = self.entries()
        return [one for one in found if one.pod and (one.pod.namespace, one.pod.name) == (namespace, name)]

    def in_namespace(self, location: Location) -> list[SandboxEntry]:
        return [entry for entry in self.entries() if entry.is_in(location)]

    def holding(self, link: str) -> list[tuple[SandboxEntry, HeldEnd]]:
        return [(entry, end) for entry in self.entries() for end in entry.ends if end.link == link]

    def sandbox_lock(self, container_id: str) -> AbstractContextManager[None]:
        return self.lock(f"sandbox/{container_id}")

    def bury(self, attachment: Attachment, at: float, *, undone: bool = True) -> bool:
        return bool(ask("bury", attachment.container_id))

    def is_buried(self, attachment: Attachment, began: float) -> bool:
        return bool(ask("buried", attachment.container_id))

    def has_unreadable(self, attachment: Attachment) -> bool:
        return False  # no scene damages a file

    def begin(self, entry: SandboxEntry, *, may_defer: bool = False) -> bool:
        self.write(entry)
        return True  # no scene adds an attachment twice

    def change_ends(self, attachment: Attachment, change: Callable[[tuple[HeldEnd, ...]], tuple[HeldEnd, ...]]) -> bool:
        before = ask("change_ends", attachment, change)
        if before is None:
            return False
        change(before)  # the caller's closure may keep its decision
        return True

    @contextmanager
    def lock(self, link: str) -> Iterator[None]:
        if not self._locking:
            yield
            return
        ask("lock", link)
        try:
            yield
        finally:
            ask("unlock", link)


class OneEntryJournal(FakeJournal):
    """A journal with one constant entry, which reduces the number of orders."""

    def __init__(self, entry: SandboxEntry, locking: bool = True) -> None:
        super().__init__(locking)
        self._only = entry

    def write(self, entry: SandboxEntry, *, may_defer: bool = False) -> None: ...

    def read(self, attachment: Attachment) -> SandboxEntry | None:
        return self._only

    def forget(self, attachment: Attachment) -> None: ...

    def entries(self) -> list[SandboxEntry]:
        return [self._only]

    def of_container(self, container_id: str) -> list[SandboxEntry]:
        return [self._only] if self._only.attachment.container_id == container_id else []

    def location(self, link: str, container_id: str) -> Location | None:
        """The location of an end. The peer's entry is constant too."""
        return super().location(link, container_id) or location_of(container_id)


class FakeKernel:
    """A kernel that turns calls of `ratchet.datapath` into requests. `parents` are the nodes' underlays."""

    def __init__(self, parents: dict[str, Parent]) -> None:
        self._parents = parents

    def observe(self, wire: Wire) -> Observed:
        seen: Observed = ask("observe", wire)
        return seen

    def make(self, wire: Wire) -> Observed:
        ask("make", wire)
        return self.observe(wire)

    def build(self, wire: Wire, observed: Observed | None = None, *, evict: bool = True) -> Observed:
        if isinstance(wire, PatchWire):
            ask("patch_one_way", wire)  # a kill between the two directions leaves one of them
        ask("ensure", wire, evict)  # another process may act before `observe`
        return self.observe(wire)

    def remove(self, location: Location, ifname: str) -> bool:
        return bool(ask("remove", location, ifname))

    @contextmanager
    def removing(self, location: Location, ifname: str) -> Iterator[None]:
        self.remove(location, ifname)
        yield

    def unplug(self, location: Location, ifname: str) -> bool:
        return False  # carrier is not modelled

    def observe_port(self, location: Location, ifname: str) -> Device | None:
        found: Device | None = ask("observe_port", location, ifname)
        return found

    def netns_cookie(self, path: str) -> int:
        return int(ask("cookie", path))

    def namespace_is_there(self, location: Location) -> bool:
        return bool(ask("is_there", location))

    def open_netns(self, path: str) -> Any:
        return nullcontext(path)

    def refuse_host(self, netns: object) -> None: ...

    def find_parent(self, *_: object) -> Parent:
        return self._parents[current_driver().node]


@contextmanager
def fake_environment(parents: dict[str, Parent]) -> Iterator[None]:
    """Within the block, the node's code uses the fake kernel, the driver's clock and no randomness.

    The driver retries after conflicts (`Driver.retry_on_conflict`), because the real retry sleeps.
    """
    kernel = FakeKernel(parents)
    time = SimpleNamespace(monotonic=lambda: current_driver().clock(), sleep=_sleep)
    with ExitStack() as stack:
        for module in (
            endpoint_reconcile,
            end_interface,
            teardown,
            call,
            add,
            underlay,
            controller,
            liveness,
            handover,
        ):
            stack.enter_context(patch.object(module, "datapath", kernel))
        for clocked in (add, listwatch):
            stack.enter_context(patch.object(clocked, "time", time))
        for retrying in (reconciler, endpoint_reconcile, record_writer):
            stack.enter_context(
                patch.object(retrying, "retry_on_conflict", lambda decide: current_driver().retry_on_conflict(decide))
            )
        for busy in (attach, delete):
            stack.enter_context(patch.object(busy, "map_concurrently", _map_concurrently))
        stack.enter_context(patch.object(links, "decode_link", _caching_decoder()))
        stack.enter_context(patch.object(listwatch, "random", SimpleNamespace(uniform=lambda low, _: low)))
        stack.enter_context(patch.object(vni, "random", SimpleNamespace(choice=lambda free: free[0])))
        yield


def _map_concurrently(act: Callable[[Any], Any], things: Sequence[Any], _tenant: str = "") -> list[Any]:
    return current_driver().map_concurrently(act, things)


def _sleep(seconds: float) -> None:
    if seconds > 0:
        ask("sleep", current_driver().clock() + seconds)


class _Document(dict[str, Any]):
    """An object of the API. Its text identifies it."""

    text: str


def _object(text: str) -> Json:
    document = _Document(json.loads(text))
    document.text = text
    return document


def _caching_decoder() -> Callable[[Mapping[str, Any]], Link]:
    """`decode_link` that decodes each text once. A replay reads the same records again and again."""
    by_text = cache(lambda text: decode_link(json.loads(text)))
    return lambda document: by_text(document.text) if isinstance(document, _Document) else decode_link(document)


def _error(failure: Failure) -> Exception:
    kind, about = failure
    if kind == "gone":
        return NamespaceGoneError(f"{about} is gone", path=about)
    if kind == "foreign VNI":
        return VniForeignError(f"VNI {about} is another's", vni=int(about))
    classes = {
        "conflict": ConflictError,
        "exists": AlreadyExistsError,
        "missing": NotFoundError,
        "unavailable": ApiUnavailableError,
        "forbidden": ForbiddenError,
        "foreign": ForeignInterfaceError,
        "VNI in use": VniInUseError,
    }
    return classes[kind](f"{kind}: {about}")
