"""`ratchet links`: links as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ratchet.cli.cluster import add_cluster_options, records_of, require_namespace
from ratchet.cli.link_table import NOTHING, LinkTable, Row, table_line, terminal_width
from ratchet.cli.manual import Manual
from ratchet.cli.operation_state import acting, operation_text
from ratchet.cli.progress import end_errors
from ratchet.cli.proofs import Proofs, read_proofs
from ratchet.cli.snapshot import read_edits
from ratchet.core.escape import escape_unprintable
from ratchet.core.model import Link, Side
from ratchet.core.serialize import plain
from ratchet.core.state_machine import derive
from ratchet.store.api_errors import ForbiddenError
from ratchet.store.listwatch import Changed, Failed, Listed, Source, list_watch
from ratchet.store.store import ApiStore

MANUAL = Manual(
    description="""
        List links of all namespaces with both ends, their state, kind and VNI. A "!" after the state marks a link with
        an error, "(down)" or another word in parentheses an operation of ratchet link. Errors, operations, and pods
        that need a restart because a link was edited, are listed on stderr. With --watch,
        print a link again whenever it changes. On a terminal, long names are shortened to its width; -o wide prints
        them whole, with the wiring, the nodes and the names of the records.

        The column VERIFIED of -o wide is for links in panel wiring between nodes: when the last OAM frame of the peer's
        node arrived over the link's tunnel ("3s ago"), or for how long none has ("silent 40s"). With two ends, the
        older time or the longer silence counts. The agents are asked through the API server's proxy, as by ratchet
        inspect. If an agent cannot be asked, a note is on stderr. With --watch there is no such column.
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
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "wide", "json"),
        default="table",
        help="format; wide adds the wiring, the nodes and the names of the records (default: table)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    link_filter = LinkFilter(arguments.namespace, arguments.pod, arguments.node, arguments.state)
    records, table = records_of(arguments), format_of(arguments.output, arguments.namespace, watch=arguments.watch)
    if not arguments.watch:
        return print_links(records, link_filter, table)
    if link_filter.namespace:
        require_namespace(records, link_filter.namespace, "watch links")
    return watch_links(records, link_filter, table)


def format_of(output: str, namespace: str | None, *, watch: bool = False) -> LinkTable | None:
    """The table of an output format; None for JSON. With a `namespace`, the table has no column for it.

    `watch`: rows are printed when records change, which have no proofs.
    """
    if output == "json":
        return None
    is_wide, has_namespace = output == "wide", namespace is None
    return LinkTable(is_wide, has_proofs=not watch, has_namespace=has_namespace, width=terminal_width())


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


def print_links(store: ApiStore, link_filter: LinkFilter, table: LinkTable | None) -> int:
    """Print the links that match, and on stderr those that need a restart of a pod.

    `table`: its format; None for JSON. Returns the exit status: 1 if a record cannot be read. Raises RatchetError if
    the filter's namespace does not exist.
    """
    links, malformed = store.links.list()
    shown = sorted(filter(link_filter.matches, links), key=lambda link: link.name)
    if link_filter.namespace and not shown:
        require_namespace(store, link_filter.namespace, "list links")
    edits = read_edits(store, shown)
    proofs = read_proofs(store, shown) if table is not None and table.is_wide and table.has_proofs else Proofs()
    if table is None:
        print(json.dumps([{**link_as_json(link), "edits": edits.words(link)} for link in shown], indent=2))
    else:
        now, texts = datetime.now(UTC), proofs.texts
        print(table.text([table.row(link, now, proof=texts.get(link.name, NOTHING)) for link in shown]))
        for link in shown:
            if found := edits.of_links.get(link.name):
                print(f"link {link.name} {found.text(link)}", file=sys.stderr)
            if operation := acting(link, now):
                print(f"link {link.name}: {escape_unprintable(operation_text(operation, now))}", file=sys.stderr)
            for error in end_errors(link):
                print(f"link {link.name}: {error}", file=sys.stderr)
    for fault in (*malformed, *edits.warnings(), *filter(None, (proofs.warning,))):
        print(f"ratchet: {fault}", file=sys.stderr)
    return 1 if malformed else 0


def watch_links(
    store: ApiStore, link_filter: LinkFilter, table: LinkTable | None, *, until: float = float("inf")
) -> int:
    """Print the links that match, and each one again when it changes, until interrupted.

    `table`: its format; None for JSON. `until` is in monotonic seconds. Raises RatchetError if retries cannot help, or
    listing records is forbidden.
    """
    printer = _JsonPrinter(link_filter) if table is None else _TablePrinter(link_filter, table)

    def list_links() -> tuple[list[Link], str]:
        links, _, version = store.links.list_with_version()
        return links, version

    for event in list_watch(Source("records", list_links, store.links.watch), until=until):
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


class _JsonPrinter:
    """Prints a link as a line of JSON if it has changed since it was printed last."""

    def __init__(self, link_filter: LinkFilter) -> None:
        self._filter = link_filter
        self._printed: dict[str, Link] = {}

    def print_all(self, links: list[Link]) -> None:
        matching = {link.name: link for link in links if self._filter.matches(link)}
        for name in sorted(matching.keys() | self._printed.keys()):
            self.print_one(name, matching.get(name))

    def print_one(self, name: str, link: Link | None) -> None:
        """Print a link if it has changed; `link` is None if the record is deleted."""
        before = self._printed.pop(name, None)
        if link is not None and self._filter.matches(link):
            self._printed[name] = link
            if before is None or self._has_changed(before, link):
                self._print(link)
        elif before is not None:
            self._print(before, is_gone=True)

    def _has_changed(self, before: Link, link: Link) -> bool:
        return link_as_json(before) != link_as_json(link)

    def _print(self, link: Link, *, is_gone: bool = False) -> None:
        print(json.dumps({"name": link.name, "state": None} if is_gone else link_as_json(link)), flush=True)


class _TablePrinter(_JsonPrinter):
    """Prints a link as a row of a table if the row has changed since it was printed last."""

    def __init__(self, link_filter: LinkFilter, table: LinkTable) -> None:
        super().__init__(link_filter)
        self._table, self._widths = table, list[int]()

    def print_all(self, links: list[Link]) -> None:
        has_headings = bool(self._widths)
        now = datetime.now(UTC)
        self._widths = self._table.widths([self._table.row(link, now) for link in links if self._filter.matches(link)])
        if not has_headings:
            self._print_row(self._table.headings)
        super().print_all(links)

    def _has_changed(self, before: Link, link: Link) -> bool:
        if before.operation != link.operation:  # the one before may have ended since it was printed
            return True
        now = datetime.now(UTC)
        return self._table.row(replace(before, created=None), now) != self._table.row(replace(link, created=None), now)

    def _print(self, link: Link, *, is_gone: bool = False) -> None:
        self._print_row(self._table.row(link, datetime.now(UTC), is_gone=is_gone))

    def _print_row(self, row: Row) -> None:
        print(table_line(row, self._widths), flush=True)


def link_as_json(link: Link) -> dict[str, Any]:
    """A link for json.dumps: declaration, state, ends and history."""
    return {
        "name": link.name,
        "namespace": link.namespace,
        "state": derive(link).value,
        "kind": link.kind.value if link.kind else None,
        "wiring": link.wiring.value,
        "vni": link.vni,
        "generation": link.generation,
        "observedGeneration": link.observed_generation,
        "means": plain(link.encapsulation),
        "created": link.created.isoformat() if link.created else None,
        "operation": _operation_as_json(link),
        **{side.value: _end_as_json(link, side) for side in Side},
        "history": [
            {"at": step.at.isoformat(), "from": step.source.value, "to": step.target.value, "reason": step.reason}
            for step in link.history
        ],
    }


def _operation_as_json(link: Link) -> dict[str, Any] | None:
    """The latest operation on a link, which may be over."""
    operation = link.operation
    if operation is None:
        return None
    until = operation.until.isoformat() if operation.until is not None else None
    return {"words": operation.words, "by": operation.by, "since": operation.since.isoformat(), "until": until}


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
        "error": {"at": end.error.at.isoformat(), "text": end.error.text} if end.error else None,
    }
