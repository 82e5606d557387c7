"""The pages of the agent's HTTP servers: /metrics, /livez, /readyz, /proofs, and the ends of a link.

A link is at /links/<uid>, the UID of its record, for `ratchet inspect`. Only who may read the record knows the UID.
/proofs is for `ratchet links -o wide`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Protocol

from ratchet.agent.metrics import CONTENT_TYPE, Metrics

PLAIN = "text/plain; charset=utf-8"
LINKS = "/links/"

Page = tuple[HTTPStatus, str, bytes]
Pages = Callable[[str], Page]
"""The page at a path: HTTP status, content type and body."""


class Health(Protocol):
    """The health of the agent. A reason is answered with 503."""

    def why_not_live(self) -> str | None:
        """Why the agent is not live; None if it is."""
        ...

    def why_not_ready(self) -> str | None:
        """Why the agent is not ready; None if it is."""
        ...

    def note(self) -> str:
        """What an operator of a ready agent should know; empty if nothing."""
        ...


class Links(Protocol):
    """The links of this node."""

    def look(self, uid: str) -> Mapping[str, Any] | None:
        """The observed ends of the link whose record has this UID, as JSON; None if the node has no such link."""
        ...


class Proofs(Protocol):
    """What is proven of the tunnels of this node."""

    def page(self) -> Mapping[str, Any]:
        """What is proven of all tunnels, as JSON, without UIDs and names."""
        ...


def health_pages(health: Health) -> Pages:
    """The pages for the kubelet's probes: /livez and /readyz."""
    return lambda path: _page_of(_health_pages(health), path)


def public_pages(metrics: Metrics, health: Health, links: Links, proofs: Proofs) -> Pages:
    """/metrics, /proofs, /links/<uid>, and the pages for the probes of earlier manifests."""
    pages = {
        "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics.text()),
        "/proofs": lambda: _json_page(proofs.page()),
        **_health_pages(health),
    }

    def page(path: str) -> Page:
        if path.startswith(LINKS):
            return _link_page(links.look(path.removeprefix(LINKS)))
        return _page_of(pages, path, f" and {LINKS}<uid>")

    return page


def without_uid(path: str) -> str:
    """The path without the UID of a record: more people read logs than records."""
    return LINKS if path.startswith(LINKS) else path


def _health_pages(health: Health) -> dict[str, Callable[[], Page]]:
    return {
        "/livez": lambda: _health_page(health.why_not_live()),
        "/readyz": lambda: _health_page(health.why_not_ready(), health.note()),
    }


def _page_of(pages: Mapping[str, Callable[[], Page]], path: str, others: str = "") -> Page:
    if page := pages.get(path):
        return page()
    return HTTPStatus.NOT_FOUND, PLAIN, f"not found: the paths are {', '.join(pages)}{others}\n".encode()


def _health_page(reason: str | None, note: str = "") -> Page:
    if reason is None:
        text = f"ok\n{note}\n" if note else "ok\n"
        return HTTPStatus.OK, PLAIN, text.encode(errors="backslashreplace")
    return HTTPStatus.SERVICE_UNAVAILABLE, PLAIN, f"{reason}\n".encode(errors="backslashreplace")


def _link_page(shown: Mapping[str, Any] | None) -> Page:
    if shown is None:
        return HTTPStatus.NOT_FOUND, PLAIN, b"no link of this node has a record of that UID\n"
    return _json_page(shown)


def _json_page(shown: Mapping[str, Any]) -> Page:
    return HTTPStatus.OK, "application/json", json.dumps(shown).encode()
