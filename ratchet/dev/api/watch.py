"""Watches: changes as JSON lines ("Kubernetes API concepts: Efficient detection of changes")."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar

from aiohttp import web

from ratchet.dev.api.kinds import JsonObject, ResourceKind
from ratchet.dev.api.requests import WatchOptions
from ratchet.dev.api.responses import Representation, encode, present
from ratchet.dev.api.status import ApiError
from ratchet.dev.api.storage import Change, Storage, Subscription, with_version

_DEFAULT_TIMEOUT = 1800

HOLD: ContextVar[Callable[[], Awaitable[None]] | None] = ContextVar("HOLD", default=None)
"""What a watch awaits before everything that it sends; a middleware may set it, for the request that it is called with.

An event that is held is sent when the wait is over; ConnectionResetError ends the stream in its place.
"""


class Watch:
    """One client's watch of a kind.

    Args:
        selected: whether the client wants an object.
        bookmark_seconds: how often a client that allows bookmarks gets one.
    """

    def __init__(
        self,
        storage: Storage,
        kind: ResourceKind,
        selected: Callable[[JsonObject], bool],
        options: WatchOptions,
        form: Representation,
        bookmark_seconds: float,
    ) -> None:
        self._storage = storage
        self._kind = kind
        self._selected = selected
        self._options = options
        self._form = form
        self._bookmark_seconds = bookmark_seconds
        self._headings_due = True

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Stream events until the timeout, the client's departure or the server's end.

        The subscription stands before the response starts, so a client that sees the headers misses nothing.
        """
        response = _Stream(HOLD.get())
        woken = asyncio.Event()
        try:
            initial, subscription = self._begin(_waker(asyncio.get_running_loop(), woken))
        except ApiError as gone:
            await response.prepare(request)
            await response.write(_line("ERROR", gone.body()))
            return response
        with contextlib.ExitStack() as stack:
            stack.callback(self._storage.unsubscribe, self._kind, subscription)
            stack.enter_context(contextlib.suppress(ConnectionResetError))  # the client has gone
            await response.prepare(request)
            for obj in initial:
                await response.write(self._event("ADDED", obj))
            if self._options.end_mark:
                await response.write(self._bookmark(subscription.start_version, initial_end=True))
            await self._follow(response, subscription, woken)
        return response

    def _begin(self, wake: Callable[[], None]) -> tuple[list[JsonObject], Subscription]:
        """The present state, if asked for, and a subscription to everything after it."""
        with self._storage.lock:
            if not self._options.initial_events:
                return [], self._storage.subscribe(self._kind, wake, self._options.since)
            objects, _ = self._storage.list(self._kind)
            return [obj for obj in objects if self._selected(obj)], self._storage.subscribe(self._kind, wake)

    async def _follow(self, response: web.StreamResponse, subscription: Subscription, woken: asyncio.Event) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + (self._options.timeout_seconds or _DEFAULT_TIMEOUT)
        bookmark_at = clock() + self._bookmark_seconds
        while not subscription.closed and (clock() < end):
            woken.clear()
            for line in self._lines(subscription):
                await response.write(line)
            if clock() >= bookmark_at:
                bookmark_at = clock() + self._bookmark_seconds
                await self._send_bookmark(response, subscription)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(end, bookmark_at)):
                    await woken.wait()
        for line in self._lines(subscription):
            await response.write(line)
        await self._send_bookmark(response, subscription)

    def _lines(self, subscription: Subscription) -> Iterator[bytes]:
        while (change := subscription.take()) is not None:
            if line := self._change_line(change):
                yield line

    async def _send_bookmark(self, response: web.StreamResponse, subscription: Subscription) -> None:
        if not self._options.bookmarks:
            return
        with self._storage.lock:
            version = self._storage.version
            lines = list(self._lines(subscription))
        for line in lines:
            await response.write(line)
        await response.write(self._bookmark(version))

    def _change_line(self, change: Change) -> bytes | None:
        """The event for a change as this watch sees it: entering the selection is ADDED, leaving it DELETED."""
        before = change.previous is not None and self._selected(change.previous)
        after = change.type != "DELETED" and self._selected(change.object)
        if after:
            return self._event("MODIFIED" if before else "ADDED", change.object)
        if before and change.previous is not None:
            return self._event("DELETED", with_version(change.previous, change.version))
        return None

    def _event(self, event_type: str, obj: JsonObject) -> bytes:
        shown = present(self._kind, obj, self._form, headings=self._headings_due)
        self._headings_due = False
        return _line(event_type, shown)

    def _bookmark(self, version: int, *, initial_end: bool = False) -> bytes:
        meta: JsonObject = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial_end:
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj: JsonObject = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": meta}
        if self._form.form == "Table":
            obj = {
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": str(version)},
                "columnDefinitions": [],
                "rows": [{"cells": [], "object": obj}],
            }
        elif self._form.form:
            obj = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta}
        return _line("BOOKMARK", obj)


class _Stream(web.StreamResponse):
    """A response of JSON lines, each of which waits for `hold` where there is one."""

    def __init__(self, hold: Callable[[], Awaitable[None]] | None) -> None:
        super().__init__(headers={"Content-Type": "application/json"})
        self.enable_chunked_encoding()
        self._hold = hold

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._hold is not None:
            await self._hold()
        await super().write(data)


def _line(event_type: str, obj: JsonObject) -> bytes:
    return encode({"type": event_type, "object": obj}) + b"\n"


def _waker(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> Callable[[], None]:
    """A wake-up that any thread may call, and that does nothing once the loop is closed."""

    def wake() -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(woken.set)

    return wake
