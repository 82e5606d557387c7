"""Set and clear operations on the links of a namespace."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from ratchet.cli.namespace_links import FoundLink, NamespaceLinks
from ratchet.cli.operation_state import is_over, may_be_over
from ratchet.core.duration import duration_text
from ratchet.core.operations import BY_MOST, OPERATIONS_NAME, Operation, Verb, over_limit, parse_operation
from ratchet.errors import RatchetError
from ratchet.store.apiserver import ApiServer
from ratchet.store.operation_entries import Entries, OperationEntries

_ACTIONS = {
    Verb.UP: "hold link {} up",
    Verb.DOWN: "hold link {} down",
    Verb.CUT: "cut link {}",
    Verb.FLAP: "flap link {}",
}
_REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


def set_operations(
    entries: OperationEntries,
    links: NamespaceLinks,
    operation: Operation,
    endpoints: Sequence[str],
    now: datetime,
    *,
    is_one_way: bool = False,
) -> list[str]:
    """Store an operation on each link with one of these endpoints, and return a line for each link.

    It replaces the link's operation. If a link is declared up, UP removes its operation. `is_one_way`: only what the
    endpoint sends is concerned. Raises RatchetError, and nothing is stored, if any of them cannot be set.
    """
    found = dict[str, FoundLink]()
    texts = dict[str, str]()
    for endpoint in endpoints:
        action = _ACTIONS[operation.verb].format(endpoint)
        link = links.find(endpoint, action)
        _require_panel(link, action)
        one = replace(operation, sender=link.endpoint) if is_one_way else operation
        text = "" if one.verb is Verb.UP and link.is_declared_up else one.as_text()
        if texts.setdefault(link.name, text) != text:
            raise RatchetError(
                f"cannot {action}: another endpoint of this link is given too",
                details="without --one-way, cut drops what both endpoints send",
            )
        found[link.name] = link
    replaced = {name for link in found.values() for name in link.keys}
    new = {name: text for name, text in texts.items() if text}

    def change(before: Entries) -> Entries:
        after = {**_without(before, replaced, links, now), **new}
        if new and (fault := over_limit(after)):
            action = _ACTIONS[operation.verb].format(", ".join(endpoints))
            raise RatchetError(
                f"cannot {action}: ConfigMap {OPERATIONS_NAME} would be over its limit: {fault}",
                details="remove operations with ratchet link clear",
            )
        return after

    before = entries.edit(change).before
    return [_line(name, texts[name], link.keys & before.keys()) for name, link in found.items()]


def clear_operations(
    entries: OperationEntries, links: NamespaceLinks, names: Sequence[str], now: datetime
) -> list[str]:
    """Remove the operations of links, and return a line for each link.

    A link is named by an endpoint, or by the name of its record, also if it is not declared any more.
    """
    of_names = {name: links.keys(name, f"clear link {name}") for name in names}
    cleared = {key for keys in of_names.values() for key in keys}
    before = entries.edit(lambda entries: _without(entries, cleared, links, now)).before
    return [
        f"link {name}: {'its operation is removed' if keys & before.keys() else 'it has no operation'}"
        for name, keys in of_names.items()
    ]


def clear_all(entries: OperationEntries) -> list[str]:
    """Remove all operations of a namespace, and return a line for each."""
    before = entries.edit(lambda _: {}).before
    return [f"link {name}: its operation is removed" for name in sorted(before)]


def current_user(api: ApiServer) -> str:
    """The user as the API server knows it; if it does not say so, that of this machine.

    Source: kubernetes.io, "API access to authentication information for a client". An API server before 1.28 has no
    such resource.
    """
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        answer = api.patient(0.0).create(_REVIEWS, review)
    except RatchetError:  # whatever the reason, the name is for people only
        return _local_user()
    name = ((answer.get("status") or {}).get("userInfo") or {}).get("username")
    return str(name)[:BY_MOST] if name else _local_user()


def _local_user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a UID without a name, as in many containers
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:BY_MOST]


def _require_panel(link: FoundLink, action: str) -> None:
    if not link.is_direct:
        return
    advice = "declare `wiring: panel`, or the label `ratchet.wiring: panel`, for it"
    restart = ", delete both pods, then start them" if link.record is not None else ""
    raise RatchetError(f"cannot {action}: it is in direct wiring", details=f"{advice}{restart}")


def _without(entries: Entries, removed: Collection[str], links: NamespaceLinks, now: datetime) -> Mapping[str, str]:
    """The entries without those of the `removed` keys, and without those of operations that are over."""
    return {key: text for key, text in entries.items() if key not in removed and not _is_over(key, text, links, now)}


def _is_over(key: str, text: str, links: NamespaceLinks, now: datetime) -> bool:
    try:
        operation = parse_operation(text)
    except ValueError:
        return False  # it is shown with its error until somebody clears it
    return may_be_over(operation, now) and is_over(operation, links.record(key), now)


def _line(name: str, text: str, had: Collection[str]) -> str:
    if not text:
        return f"link {name}: up, as it is declared{'; its operation is removed' if had else ''}"
    operation = parse_operation(text)
    seconds = operation.total_seconds
    lasts = f"for {duration_text(seconds)}" if seconds is not None else "until it is cleared"
    return f"link {name}: {operation.words}, {lasts}"
