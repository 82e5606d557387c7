"""An in-memory index of the journal's entries for an agent: by link, container, pod and namespace."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

from ratchet.core.sandbox import Location
from ratchet.node.entries import Attachment, SandboxEntry

Key = TypeVar("Key", bound=Hashable)


class EntryIndex:
    """An index with one entry for each attachment. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Attachment, SandboxEntry] = {}
        self._by_link = _Groups[str]()
        self._by_container = _Groups[str]()
        self._by_pod = _Groups[tuple[str, str]]()
        self._by_cookie = _Groups[int]()
        self._by_netns = _Groups[str]()
        self._links: Counter[str] = Counter()  # by namespace

    def put(self, entry: SandboxEntry) -> None:
        attachment = entry.attachment
        with self._lock:
            self._remove(attachment)
            self._entries[attachment] = entry
            self._by_container.add(attachment.container_id, attachment)
            self._by_netns.add(entry.netns, attachment)
            if entry.cookie:
                self._by_cookie.add(entry.cookie, attachment)
            if entry.pod is not None:
                self._by_pod.add((entry.pod.namespace, entry.pod.name), attachment)
            for end in entry.ends:
                if not self._by_link.of(end.link):
                    self._links[end.wanted.namespace] += 1
                self._by_link.add(end.link, attachment)

    def forget(self, attachment: Attachment) -> None:
        with self._lock:
            self._remove(attachment)

    def get(self, attachment: Attachment) -> SandboxEntry | None:
        return self._entries.get(attachment)

    def entries(self) -> list[SandboxEntry]:
        with self._lock:
            return list(self._entries.values())

    def of_link(self, link: str) -> list[SandboxEntry]:
        with self._lock:
            return self._all(self._by_link.of(link))

    def has_link(self, link: str) -> bool:
        """Whether a sandbox has an end of a link."""
        return bool(self._by_link.of(link))

    def link_counts(self) -> Counter[str]:
        """The number of links of which a sandbox has an end, by namespace."""
        with self._lock:
            return self._links.copy()

    def of_container(self, container_id: str) -> list[SandboxEntry]:
        with self._lock:
            return self._all(self._by_container.of(container_id))

    def of_pod(self, namespace: str, name: str) -> list[SandboxEntry]:
        with self._lock:
            return self._all(self._by_pod.of((namespace, name)))

    def in_namespace(self, location: Location) -> list[SandboxEntry]:
        """The entries whose network namespace is that of a location, as `SandboxEntry.is_in` defines it."""
        with self._lock:
            by_path, by_cookie = self._by_netns.of(location.netns), self._by_cookie.of(location.cookie)
            found = self._all(tuple(dict.fromkeys((*by_cookie, *by_path))))
        return [entry for entry in found if entry.is_in(location)]

    def _all(self, attachments: tuple[Attachment, ...]) -> list[SandboxEntry]:
        return [self._entries[one] for one in attachments]

    def _remove(self, attachment: Attachment) -> None:
        entry = self._entries.pop(attachment, None)
        if entry is None:
            return
        self._by_container.discard(attachment.container_id, attachment)
        self._by_netns.discard(entry.netns, attachment)
        self._by_cookie.discard(entry.cookie, attachment)
        if entry.pod is not None:
            self._by_pod.discard((entry.pod.namespace, entry.pod.name), attachment)
        for end in entry.ends:
            self._by_link.discard(end.link, attachment)
            if not self._by_link.of(end.link):
                self._forget_link(end.wanted.namespace)

    def _forget_link(self, namespace: str) -> None:
        self._links[namespace] -= 1
        if not self._links[namespace]:
            del self._links[namespace]


class _Groups(Generic[Key]):
    """The attachments that share a key.

    Most groups have one attachment. A tuple holds it in a quarter of a set's memory.
    """

    def __init__(self) -> None:
        self._groups: dict[Key, tuple[Attachment, ...]] = {}

    def of(self, key: Key) -> tuple[Attachment, ...]:
        return self._groups.get(key, ())

    def add(self, key: Key, attachment: Attachment) -> None:
        group = self.of(key)
        if attachment not in group:
            self._groups[key] = (*group, attachment)

    def discard(self, key: Key, attachment: Attachment) -> None:
        left = tuple(one for one in self.of(key) if one != attachment)
        if left:
            self._groups[key] = left
        else:
            self._groups.pop(key, None)
