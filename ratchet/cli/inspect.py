"""`ratchet inspect`: one link: state, history, both ends as declared and as their agents observe them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from ratchet.cli.cluster import add_cluster_options, namespace_meant, records_of
from ratchet.cli.describe import life
from ratchet.cli.links import describe
from ratchet.cli.manual import Manual
from ratchet.cli.snapshot import read_edits
from ratchet.core.model import Link, Side
from ratchet.core.observation import Observation
from ratchet.core.serialize import plain
from ratchet.errors import RatchetError
from ratchet.store.agents import ask_agent
from ratchet.store.store import ApiStore

Json = dict[str, Any]
# Asks the agent of a node, by its name, for what it sees of a link, by its record's UID. Raises RatchetError.
Ask = Callable[[str, str], Mapping[str, Any]]

MANUAL = Manual(
    description="""
        Print one link with its state, its history and its two ends. Each end is shown as declared and as the agent of
        its node observes it now, with the differences and the interface counters.

        The agents are reached through the API server's proxy, with the permission get on pods/proxy in the namespace of
        the records. An end whose agent cannot be reached is shown with the reason.
    """,
    examples=(
        ("Name a link by an endpoint", "ratchet inspect quagga-a:mid1 -n lab"),
        ("Name a link by the start of its name", "ratchet inspect lab.quagga-a.mid1"),
    ),
    exit_status={0: "the link was printed", 1: "no link or several links have this name, or the API failed"},
)

NAMED_MOST = 8
COMPLETION_SECONDS = 2.0


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    add_cluster_options(parser)
    parser.add_argument("-n", "--namespace", help="namespace of the link (default: the context's namespace)")
    link = parser.add_argument(
        "link", metavar="NAME", help="link name, a prefix of it that no other link has, or POD:INTERFACE"
    )
    link.completer = _names  # type: ignore[attr-defined]  # which is argcomplete's to find
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="format (default: text)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    records = records_of(arguments)
    link = records.links.get(arguments.link) if ":" not in arguments.link else None
    if link is None:
        link = chosen(records.links.list()[0], arguments.link, namespace_meant(arguments))
    edits = read_edits(records, [link])
    sightings = sightings_of(link, lambda node, uid: ask_agent(records.api, records.namespace, node, uid))
    if arguments.output == "json":
        observed = {side.value: sightings.get(side) for side in Side}
        print(json.dumps({**describe(link), "edits": edits.words.get(link.name), "observed": observed}, indent=2))
    else:
        print(life(link, sightings, datetime.now(UTC), edits.words.get(link.name, ())))
    for error in edits.complaints():
        print(f"ratchet: {error}", file=sys.stderr)
    return 0


def _names(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """The names of all links, for a shell that completes one."""
    records = records_of(parsed_args)
    return [link.name for link in ApiStore(records.api.patient(COMPLETION_SECONDS), records.namespace).links.list()[0]]


def chosen(links: Collection[Link], said: str, namespace: str) -> Link:
    """The one that is meant: by what its name begins with, with or without the namespace, or by one of its ends.

    Raises RatchetError where there is none, or more than one.
    """
    if ":" in said:
        pod, _, ifname = said.partition(":")
        found = [link for link in links if link.namespace == namespace and _ends_at(link, pod, ifname)]
    else:
        found = [link for link in links if link.name.startswith((said, f"{namespace}.{said}"))]
    if len(found) == 1:
        return found[0]
    if found:
        names = sorted(link.name for link in found)
        more = f", and {len(names) - NAMED_MOST} more" if len(names) > NAMED_MOST else ""
        raise RatchetError(
            f"cannot inspect link {said}: several links match", details=f"{', '.join(names[:NAMED_MOST])}{more}"
        )
    raise RatchetError(
        f"cannot find link {said} in namespace {namespace}: no pod has joined a link with this name",
        details="`ratchet links` lists the links that a pod has joined, `ratchet wait` what the other links wait for",
    )


def sightings_of(link: Link, ask: Ask) -> dict[Side, Json]:
    """What the agents see of each end that somebody has joined, or why it is not known: a Observation as JSON, of which
    `node` and `at`. Each agent is asked once.
    """
    nodes = {side: sandbox.node for side in Side if (sandbox := link.sandbox(side)) is not None}
    answers = {node: _answer(link, node, ask) for node in dict.fromkeys(nodes.values())}
    unseen = plain(Observation(fault="its agent does not know of this sandbox"))
    return {
        side: {"node": node, "at": answers[node].get("at"), **answers[node].get("ends", {}).get(side.value, unseen)}
        for side, node in nodes.items()
    }


def _answer(link: Link, node: str, ask: Ask) -> Mapping[str, Any]:
    try:
        return ask(node, link.uid)
    except RatchetError as error:
        unknown = plain(Observation(fault=str(error)))
        return {"ends": {side.value: unknown for side in Side}}


def _ends_at(link: Link, pod: str, ifname: str) -> bool:
    ends = [(link.end(side), link.sandbox(side)) for side in Side]
    return any(
        end.ifname == ifname and pod in (end.name, sandbox.pod.name if sandbox else end.name) for end, sandbox in ends
    )
