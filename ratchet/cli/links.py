"""`ratchet links`: links as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ratchet.cli.cluster import add_cluster_options, records_of, require_namespace
from ratchet.cli.manual import Manual
from ratchet.cli.snapshot import read_edits
from ratchet.core.drift import wants_restart
from ratchet.core.model import Link, Side
from ratchet.core.serialize import plain
from ratchet.core.state_machine import derive
from ratchet.store.api_errors import ForbiddenError
from ratchet.store.listwatch import Changed, Failed, Listed, Source, list_watch
from ratchet.store.store import ApiStore

MANUAL = Manual(
    description="""
        List links of all namespaces with their state, kind, VNI and both ends. Pods that need a restart because a link
        was edited are listed on stderr. With --watch, print a link again whenever it changes.
    """,
    examples=(
        ("List the links of a namespace", "ratchet links -n lab"),
        (
            "Watch the links of a node whose pair has not joined",
            "ratchet links --node worker-1 --state primary-ready --watch",
        ),
        ("Print links as JSON", "ratchet links -o json"),
    ),
    exit_status={
        0: "the links were printed",
        1: "a record is malformed, the namespace does not exist, or the API failed",
    },
)

HEADINGS = ("LINK", "STATE", "KIND", "VNI", "PRIMARY", "PAIR", "AGE")


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    add_cluster_options(parser)
    parser.add_argument("-n", "--namespace", help="only links of this namespace (default: all namespaces)")
    parser.add_argument("--pod", help="only links of the pod with this name")
    parser.add_argument("--node", help="only links with an end on this node")
    parser.add_argument(
        "--state", choices=("pending", "primary-ready", "pair-ready", "linked"), help="only links in this state"
    )
    parser.add_argument(
        "-w", "--watch", action="store_true", help="print a link again whenever it changes, until interrupted"
    )
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="format (default: table)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    link_filter = LinkFilter(arguments.namespace, arguments.pod, arguments.node, arguments.state)
    records, as_json = records_of(arguments), arguments.output == "json"
    if not arguments.watch:
        return print_links(records, link_filter, as_json=as_json)
    if link_filter.namespace:
        require_namespace(records, link_filter.namespace, "watch links")
    return watch_links(records, link_filter, as_json=as_json)


@dataclass(frozen=True, slots=True)
class LinkFilter:
    """A filter of links by namespace, pod, node and state. None matches all.

    `pod`: the pod's own name or the one that links use for it.
    """

    namespace: str | None = None
    pod: str | None = None
    node: str | None = None
    state: str | None = None

    def matches(self, link: Link) -> bool:
        sandboxes = [one for one in map(link.sandbox, Side) if one is not None]
        pods = {link.primary.name, link.pair.name} | {one.pod.name for one in sandboxes}
        return (
            self.namespace in (None, link.namespace)
            and (self.pod is None or self.pod in pods)
            and (self.node is None or self.node in {one.node for one in sandboxes})
            and self.state in (None, derive(link).value)
        )


def print_links(records: ApiStore, link_filter: LinkFilter, *, as_json: bool) -> int:
    """Print the links that match, and on stderr those that need a restart of a pod.

    Returns the exit status: 1 if a record cannot be read. Raises RatchetError if the filter's namespace does not exist.
    """
    links, malformed = records.links.list()
    shown = sorted(filter(link_filter.matches, links), key=lambda link: link.name)
    if link_filter.namespace and not shown:
        require_namespace(records, link_filter.namespace, "list links")
    edits = read_edits(records, shown)
    if as_json:
        print(json.dumps([{**link_as_json(link), "edits": edits.words.get(link.name)} for link in shown], indent=2))
    else:
        print(table([HEADINGS, *(_row(link, datetime.now(UTC)) for link in shown)]))
        for link in shown:
            if words := edits.words.get(link.name):
                print(f"link {link.name} {wants_restart(link, words)}", file=sys.stderr)
    for error in (*malformed, *edits.warnings()):
        print(f"ratchet: {error}", file=sys.stderr)
    return 1 if malformed else 0


def watch_links(records: ApiStore, link_filter: LinkFilter, *, as_json: bool, until: float = float("inf")) -> int:
    """Print the links that match, and each one again when it changes, until interrupted.

    `until` is in monotonic seconds. Raises RatchetError if retries cannot help, or listing records is forbidden.
    """
    printer = _LinkPrinter(link_filter, as_json=as_json)

    def list_links() -> tuple[list[Link], str]:
        links, _, version = records.links.list_with_version()
        return links, version

    for event in list_watch(Source("records", list_links, records.links.watch), until=until):
        match event:
            case Listed(links):
                printer.print_all([*links])
            case Changed(change) if change.error is not None:
                print(f"ratchet: {change.error}", file=sys.stderr)
            case Changed(change):
                printer.print_one(change.name, change.link)
            case Failed(ForbiddenError() as cause):
                raise cause
            case Failed():
                event.raise_if_fatal()
    return 0


class _LinkPrinter:
    """Prints a link if its row has changed since it was printed last."""

    def __init__(self, link_filter: LinkFilter, *, as_json: bool) -> None:
        self._filter, self._as_json = link_filter, as_json
        self._printed: dict[str, Link] = {}
        self._widths = [len(heading) for heading in HEADINGS]

    def print_all(self, links: list[Link]) -> None:
        matching = {link.name: link for link in links if self._filter.matches(link)}
        rows = [_row(link, datetime.now(UTC)) for link in matching.values()]
        self._widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
        if not self._printed and not self._as_json:
            self._print_row(HEADINGS)
        for name in sorted(matching.keys() | self._printed.keys()):
            self.print_one(name, matching.get(name))

    def print_one(self, name: str, link: Link | None) -> None:
        """Print a link if it has changed; `link` is None if the record is deleted."""
        before = self._printed.get(name)
        if link is None or not self._filter.matches(link):
            if before is not None:
                del self._printed[name]
                self._print_link({"name": name, "state": None}, (name, "gone", *"-----"))
            return
        self._printed[name] = link
        row = _row(link, datetime.now(UTC))
        if before is None or _row(before, datetime.now(UTC))[:-1] != row[:-1]:
            self._print_link(link_as_json(link), row)

    def _print_link(self, document: dict[str, Any], row: tuple[str, ...]) -> None:
        if self._as_json:
            print(json.dumps(document), flush=True)
        else:
            self._print_row(row)

    def _print_row(self, row: tuple[str, ...]) -> None:
        cells = (cell.ljust(width) for cell, width in zip(row, self._widths, strict=True))
        print("   ".join(cells).rstrip(), flush=True)


def link_as_json(link: Link) -> dict[str, Any]:
    """A link for json.dumps: declaration, state, ends and history."""
    return {
        "name": link.name,
        "namespace": link.namespace,
        "state": derive(link).value,
        "kind": link.kind.value if link.kind else None,
        "vni": link.vni,
        "generation": link.generation,
        "observedGeneration": link.observed_generation,
        "means": plain(link.encapsulation),
        "created": link.created.isoformat() if link.created else None,
        **{side.value: _end_as_json(link, side) for side in Side},
        "history": [
            {"at": step.at.isoformat(), "from": step.source.value, "to": step.target.value, "reason": step.reason}
            for step in link.history
        ],
    }


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of cells in columns, as kubectl prints them. The first row has the headings."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def age(created: datetime | None, now: datetime) -> str:
    """The age of an object in its largest unit, as kubectl prints it."""
    if created is None:
        return "-"
    seconds = max(0, int((now - created).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _row(link: Link, now: datetime) -> tuple[str, ...]:
    return (
        link.name,
        derive(link).value,
        link.kind.value if link.kind else "-",
        str(link.vni) if link.vni is not None else "-",
        _end(link, Side.PRIMARY),
        _end(link, Side.PAIR),
        age(link.created, now),
    )


def _end(link: Link, side: Side) -> str:
    end = link.end(side)
    pod = end.sandbox.pod.name if end.sandbox else end.name
    where = f"@{end.sandbox.node}" if end.sandbox else ""
    return f"{pod}:{end.ifname}{where}"


def _end_as_json(link: Link, side: Side) -> dict[str, Any]:
    end = link.end(side)
    sandbox = end.sandbox
    return {
        "name": end.name,
        "interface": end.ifname,
        "addresses": [str(address) for address in end.addresses],
        **plain(end.properties),
        "notes": dict(end.notes),
        "pod": sandbox.pod.name if sandbox else None,
        "uid": sandbox.pod.uid if sandbox else None,
        "node": sandbox.node if sandbox else None,
        "vtep": sandbox.vtep if sandbox else None,
        "vteps": list(sandbox.vteps) or None if sandbox else None,
        "underlay_mtu": sandbox.underlay_mtu or None if sandbox else None,
        "container": sandbox.container_id if sandbox else None,
        "netns": sandbox.netns if sandbox else None,
        "stands": link.is_ready(side),
    }
