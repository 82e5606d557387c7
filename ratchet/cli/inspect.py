"""`ratchet inspect`: one link: state, history, both ends as declared and as their agents observe them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from ratchet.cli.cluster import add_cluster_options, chosen_namespace, records_of
from ratchet.cli.describe import NO_EDITS, describe_link
from ratchet.cli.links import link_as_json
from ratchet.cli.manual import Manual
from ratchet.cli.snapshot import read_edits
from ratchet.core.model import Link, Side
from ratchet.core.observation import Observation
from ratchet.core.serialize import plain
from ratchet.errors import RatchetError
from ratchet.store.agents import ask_agent
from ratchet.store.store import ApiStore

Json = dict[str, Any]
# Called with a node's name and a record's UID: returns what the agent of the node observes. Raises RatchetError.
QueryAgent = Callable[[str, str], Mapping[str, Any]]

MANUAL = Manual(
    description="""
        Print one link with its state, the operation on it, its history and its two ends. Each end is shown as declared
        and as the agent of its node observes it now, with the differences and the interface counters.

        The agents are reached through the API server's proxy, with the permission get on pods/proxy in the namespace of
        the records. An end whose agent cannot be reached is shown with the reason.
    """,
    examples=(
        ("Name a link by an endpoint", "ratchet inspect quagga-a:mid1 -n lab"),
        ("Name a link by the start of its name", "ratchet inspect lab.quagga-a.mid1"),
    ),
    exit_status={0: "the link was printed", 1: "no link or several links have this name, or the API failed"},
)

NAMES_MAX = 8
COMPLETION_SECONDS = 2.0


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    add_cluster_options(parser)
    parser.add_argument("-n", "--namespace", help="namespace of the link (default: the context's namespace)")
    link = parser.add_argument(
        "link", metavar="NAME", help="link name, a prefix of it that no other link has, or POD:INTERFACE"
    )
    link.completer = _names  # type: ignore[attr-defined]  # argcomplete reads this attribute
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="format (default: text)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    store = records_of(arguments)
    link = store.links.get(arguments.link) if ":" not in arguments.link else None
    if link is None:
        link = find_link(store.links.list()[0], arguments.link, chosen_namespace(arguments))
    edits = read_edits(store, [link])
    observations = observe_ends(link, lambda node, uid: ask_agent(store.api, store.namespace, node, uid))
    if arguments.output == "json":
        observed = {side.value: observations.get(side) for side in Side}
        print(json.dumps({**link_as_json(link), "edits": edits.words(link), "observed": observed}, indent=2))
    else:
        print(describe_link(link, observations, datetime.now(UTC), edits.of_links.get(link.name, NO_EDITS)))
    for error in edits.warnings():
        print(f"ratchet: {error}", file=sys.stderr)
    return 0


def _names(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """The names of all links, for shell completion."""
    store = records_of(parsed_args)
    return [link.name for link in ApiStore(store.api.patient(COMPLETION_SECONDS), store.namespace).links.list()[0]]


def find_link(links: Collection[Link], name: str, namespace: str) -> Link:
    """The link with this name, a prefix of it with or without the namespace, or an endpoint POD:INTERFACE.

    Raises RatchetError if no link matches, or several.
    """
    if ":" in name:
        pod, _, ifname = name.partition(":")
        found = [link for link in links if link.namespace == namespace and _ends_at(link, pod, ifname)]
    else:
        found = [link for link in links if link.name.startswith((name, f"{namespace}.{name}"))]
    if len(found) == 1:
        return found[0]
    if found:
        names = sorted(link.name for link in found)
        more = f", and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
        raise RatchetError(
            f"cannot inspect link {name}: several links match", details=f"{', '.join(names[:NAMES_MAX])}{more}"
        )
    raise RatchetError(
        f"cannot find link {name} in namespace {namespace}: no pod has joined a link with this name",
        details="`ratchet links` lists the links that a pod has joined, `ratchet wait` what the other links wait for",
    )


def observe_ends(link: Link, query: QueryAgent) -> dict[Side, Json]:
    """The agents' observations of each joined end: an Observation as JSON, with `node` and `at`.

    The key `fault` has the reason if there is none.

    Each agent is queried once.
    """
    nodes = {side: sandbox.node for side in Side if (sandbox := link.sandbox(side)) is not None}
    responses = {node: _query(link, node, query) for node in dict.fromkeys(nodes.values())}
    missing = plain(Observation(fault="the agent of its node does not know this sandbox"))
    return {
        side: {
            "node": node,
            "at": responses[node].get("at"),
            **responses[node].get("ends", {}).get(side.value, missing),
        }
        for side, node in nodes.items()
    }


def _query(link: Link, node: str, query: QueryAgent) -> Mapping[str, Any]:
    try:
        return query(node, link.uid)
    except RatchetError as error:
        unknown = plain(Observation(fault=str(error)))
        return {"ends": {side.value: unknown for side in Side}}


def _ends_at(link: Link, pod: str, ifname: str) -> bool:
    ends = [(link.end(side), link.sandbox(side)) for side in Side]
    return any(
        end.ifname == ifname and pod in (end.name, sandbox.pod.name if sandbox else end.name) for end, sandbox in ends
    )
