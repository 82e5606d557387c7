"""`ratchet links`: links as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ratchet.cli.cluster import add_cluster_options, records_of
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
    exit_status={0: "the links were printed", 1: "a record is malformed, or the API failed"},
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
    chosen = Chosen(arguments.namespace, arguments.pod, arguments.node, arguments.state)
    show = follow_links if arguments.watch else print_links
    return show(records_of(arguments), chosen, as_json=arguments.output == "json")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which links are meant: of pods in a namespace, of a pod (by its own name or the one it goes by), with an end on a
    node, in a state; None: whichever.
    """

    namespace: str | None = None
    pod: str | None = None
    node: str | None = None
    state: str | None = None

    def has(self, link: Link) -> bool:
        sandboxes = [one for one in map(link.sandbox, Side) if one is not None]
        pods = {link.primary.name, link.pair.name} | {one.pod.name for one in sandboxes}
        return (
            self.namespace in (None, link.namespace)
            and (self.pod is None or self.pod in pods)
            and (self.node is None or self.node in {one.node for one in sandboxes})
            and self.state in (None, derive(link).value)
        )


def print_links(records: ApiStore, chosen: Chosen, *, as_json: bool) -> int:
    """Print the chosen links, and on stderr which of them want a restart of a pod.

    Exit status 1 where a record cannot be read.
    """
    links, malformed = records.links.list()
    shown = sorted(filter(chosen.has, links), key=lambda link: link.name)
    edits = read_edits(records, shown)
    if as_json:
        print(json.dumps([{**describe(link), "edits": edits.words.get(link.name)} for link in shown], indent=2))
    else:
        print(table([HEADINGS, *(_row(link, datetime.now(UTC)) for link in shown)]))
        for link in shown:
            if words := edits.words.get(link.name):
                print(f"link {link.name} {wants_restart(link, words)}", file=sys.stderr)
    for error in (*malformed, *edits.complaints()):
        print(f"ratchet: {error}", file=sys.stderr)
    return 1 if malformed else 0


def follow_links(records: ApiStore, chosen: Chosen, *, as_json: bool, until: float = float("inf")) -> int:
    """Print the chosen links, and each again when it has changed, until interrupted (or `until`, monotonic seconds).

    Raises RatchetError for what a retry cannot mend, and where the account may not list or watch records.
    """
    following = _Following(chosen, as_json=as_json)

    def list_links() -> tuple[list[Link], str]:
        links, _, version = records.links.list_with_version()
        return links, version

    for event in list_watch(Source("records", list_links, records.links.watch), until=until):
        match event:
            case Listed(links):
                following.tell_all([*links])
            case Changed(change) if change.error is not None:
                print(f"ratchet: {change.error}", file=sys.stderr)
            case Changed(change):
                following.tell(change.name, change.link)
            case Failed(ForbiddenError() as cause):
                raise cause
            case Failed():
                event.raise_if_fatal()
    return 0


class _Following:
    """What was told of links, so that each is told again only when it is another."""

    def __init__(self, chosen: Chosen, *, as_json: bool) -> None:
        self._chosen, self._as_json = chosen, as_json
        self._told: dict[str, Link] = {}
        self._widths = [len(heading) for heading in HEADINGS]

    def tell_all(self, links: list[Link]) -> None:
        chosen = {link.name: link for link in links if self._chosen.has(link)}
        rows = [_row(link, datetime.now(UTC)) for link in chosen.values()]
        self._widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
        if not self._told and not self._as_json:
            self._print(HEADINGS)
        for name in sorted(chosen.keys() | self._told.keys()):
            self.tell(name, chosen.get(name))

    def tell(self, name: str, link: Link | None) -> None:
        """`link` is None where it is gone."""
        before = self._told.get(name)
        if link is None or not self._chosen.has(link):
            if before is not None:
                del self._told[name]
                self._say({"name": name, "state": None}, (name, "gone", *"-----"))
            return
        self._told[name] = link
        row = _row(link, datetime.now(UTC))
        if before is None or _row(before, datetime.now(UTC))[:-1] != row[:-1]:
            self._say(describe(link), row)

    def _say(self, document: dict[str, Any], row: tuple[str, ...]) -> None:
        if self._as_json:
            print(json.dumps(document), flush=True)
        else:
            self._print(row)

    def _print(self, row: tuple[str, ...]) -> None:
        cells = (cell.ljust(width) for cell, width in zip(row, self._widths, strict=True))
        print("   ".join(cells).rstrip(), flush=True)


def describe(link: Link) -> dict[str, Any]:
    """One link as JSON: what is wanted, what stands, how it got there."""
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
        **{side.value: _describe_end(link, side) for side in Side},
        "history": [
            {"at": step.at.isoformat(), "from": step.source.value, "to": step.target.value, "reason": step.reason}
            for step in link.history
        ],
    }


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of cells, the first the headings, in columns as kubectl prints them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def age(created: datetime | None, now: datetime) -> str:
    """How long ago, in kubectl's manner: the largest unit alone."""
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


def _describe_end(link: Link, side: Side) -> dict[str, Any]:
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
