"""`ratchet link`: hold links up or down, cut or flap them, for a time; show and clear these operations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from ratchet.cli.cluster import add_cluster_options, chosen_namespace, records_of
from ratchet.cli.link_operations import clear_all, clear_operations, current_user, set_operations
from ratchet.cli.manual import Manual
from ratchet.cli.namespace_links import NamespaceLinks
from ratchet.cli.operation_table import print_operations
from ratchet.core.duration import duration_text
from ratchet.core.escape import escape_unprintable, excerpt
from ratchet.core.operations import FLAP_SECONDS, FLAP_TIMES, Operation, Verb, read_seconds, read_times
from ratchet.errors import RatchetError
from ratchet.store.operation_entries import OperationEntries
from ratchet.store.store import ApiStore

Value = TypeVar("Value")

COMPLETION_SECONDS = 2.0

_STORED = """
    The operation replaces an earlier one of the link. It is stored in the ConfigMap ratchet-operations of the
    namespace, and the agents act on it. So it ends on time without this command, and lasts while agents restart. The
    link must be in panel wiring.
"""
_STATUS = {
    0: "the operations were stored",
    1: "no declared link has the endpoint, it is in direct wiring, there are too many operations, or the API failed",
}

MANUALS = {
    "down": Manual(
        description=f"""
            Hold links down: neither pod's interface has carrier, as if the cable were unplugged.

            {_STORED}
        """,
        examples=(
            ("Unplug a link for 30 s", "ratchet link down r1:eth1 -n lab --for 30s"),
            ("Unplug two links until they are cleared", "ratchet link down r1:eth1 r3:eth2"),
        ),
        exit_status=_STATUS,
    ),
    "up": Manual(
        description=f"""
            Hold links up that are declared down or cut. If a link is declared up, its operation is removed.

            {_STORED}
        """,
        examples=(
            ("End the operation of a link", "ratchet link up r1:eth1 -n lab"),
            ("Hold a link up for 5 minutes that is declared down", "ratchet link up r1:eth2 --for 5m"),
        ),
        exit_status=_STATUS,
    ),
    "cut": Manual(
        description=f"""
            Drop what both pods send over links. Both interfaces keep their carrier. With --one-way, drop only what the
            given endpoint sends, as with one broken fibre.

            {_STORED}
        """,
        examples=(
            ("Drop all packets of a link for a minute", "ratchet link cut r1:eth1 -n lab --for 1m"),
            ("Drop what r1 sends", "ratchet link cut r1:eth1 --one-way"),
        ),
        exit_status=_STATUS,
    ),
    "flap": Manual(
        description=f"""
            Take links down and up again, several times. In between and afterwards, a link is as it is declared.

            {_STORED}
        """,
        examples=(
            ("Flap a link 5 times, 1 s down and 1 s up", "ratchet link flap r1:eth1 -n lab"),
            (
                "Flap a link fast, for 10 s at most",
                "ratchet link flap r1:eth1 --times 50 --down 200ms --up 100ms --for 10s",
            ),
        ),
        exit_status=_STATUS,
    ),
    "show": Manual(
        description="""
            List the operations on the links of a namespace: what they do, who set them, since when and until when. An
            operation that no agent has begun yet is "not begun". Without permission to read records, the times are
            those at which the operations were set. Operations that have ended stay until another one is set or
            cleared. Invalid operations are listed on stderr.
        """,
        examples=(
            ("List the operations of a namespace", "ratchet link show -n lab"),
            ("Print the operation of a link as JSON", "ratchet link show r1:eth1 -o json"),
        ),
        exit_status={0: "the operations were printed", 1: "an operation is invalid, or the API failed"},
    ),
    "clear": Manual(
        description="""
            Remove the operations of links. The links are then as they are declared. To clear a link that is not
            declared any more, use its name in ratchet link show.
        """,
        examples=(
            ("Remove the operation of a link", "ratchet link clear r1:eth1 -n lab"),
            ("Remove all operations of a namespace", "ratchet link clear --all -n lab"),
        ),
        exit_status={
            0: "the links have no operation",
            1: "no declared link has the endpoint, or the API failed",
        },
    ),
}
_SUMMARIES = {
    "down": "hold links down",
    "up": "hold links up, or end their operations",
    "cut": "drop what the pods send",
    "flap": "take links down and up again, several times",
    "show": "list operations",
    "clear": "remove operations",
}


def declare(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, manual in MANUALS.items():
        action = actions.add_parser(name, help=_SUMMARIES[name])
        manual.attach(action)
        add_cluster_options(action)
        action.add_argument("-n", "--namespace", help="namespace of the links (default: the context's namespace)")
        _DECLARE.get(name, _declare_operation)(action)
        if name in list(Verb):
            action.set_defaults(run=_run_operation, verb=Verb(name))


def _declare_operation(action: argparse.ArgumentParser) -> None:
    _add_links(action, "endpoint of the link, POD:INTERFACE", nargs="+", type=_checked(_endpoint))
    action.add_argument(
        "--for",
        dest="seconds",
        type=_checked(read_seconds),
        metavar="DURATION",
        help="how long, such as 30s or 5m (default: until it is cleared)",
    )


def _declare_cut(action: argparse.ArgumentParser) -> None:
    _declare_operation(action)
    action.add_argument("--one-way", action="store_true", help="drop only what the given endpoint sends")


def _declare_flap(action: argparse.ArgumentParser) -> None:
    _add_links(action, "endpoint of the link, POD:INTERFACE", nargs="+", type=_checked(_endpoint))
    action.add_argument(
        "--times",
        type=_checked(_times),
        default=FLAP_TIMES,
        metavar="N",
        help=f"how often the link goes down (default: {FLAP_TIMES})",
    )
    for name in ("down", "up"):
        action.add_argument(
            f"--{name}",
            dest=f"{name}_seconds",
            type=_checked(read_seconds),
            default=FLAP_SECONDS,
            metavar="DURATION",
            help=f"for how long it is {name} each time (default: {duration_text(FLAP_SECONDS)})",
        )
    action.add_argument(
        "--for",
        dest="seconds",
        type=_checked(read_seconds),
        metavar="DURATION",
        help="the longest time for all of it (default: as long as --times, --down and --up take)",
    )


def _declare_show(action: argparse.ArgumentParser) -> None:
    _add_links(action, "only these links: POD:INTERFACE, or the link's name", nargs="*")
    action.add_argument("-o", "--output", choices=("table", "json"), default="table", help="format (default: table)")
    action.set_defaults(run=_run_show)


def _declare_clear(action: argparse.ArgumentParser) -> None:
    _add_links(action, "link to clear: POD:INTERFACE, or the link's name", nargs="*")
    action.add_argument("--all", action="store_true", help="clear all links of the namespace")
    action.set_defaults(run=lambda arguments: _run_clear(action, arguments))


_DECLARE: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "cut": _declare_cut,
    "flap": _declare_flap,
    "show": _declare_show,
    "clear": _declare_clear,
}


def _add_links(action: argparse.ArgumentParser, meaning: str, **options: Any) -> None:
    links = action.add_argument("links", metavar="ENDPOINT", help=meaning, **options)
    links.completer = _completions  # type: ignore[attr-defined]  # argcomplete reads this attribute


def _run_operation(arguments: argparse.Namespace) -> int:
    store, namespace = records_of(arguments), chosen_namespace(arguments)
    if not store.topologies.enabled:
        raise RatchetError(
            f"cannot {arguments.verb} links: operations come with topologies, and --topologies is off",
            details="use --topologies on if the agents do",
        )
    now, links = datetime.now(UTC), NamespaceLinks(store, namespace)
    fields = {key: getattr(arguments, key) for key in ("times", "down_seconds", "up_seconds") if key in arguments}
    operation = Operation("", arguments.verb, arguments.seconds, by=current_user(store.api), at=now, **fields)
    is_one_way = getattr(arguments, "one_way", False)
    entries = OperationEntries(store.api, namespace)
    _print(set_operations(entries, links, operation, arguments.links, now, is_one_way=is_one_way), links)
    return 0


def _run_show(arguments: argparse.Namespace) -> int:
    store, namespace = records_of(arguments), chosen_namespace(arguments)
    entries, links = OperationEntries(store.api, namespace).read(), NamespaceLinks(store, namespace)
    as_json, now = arguments.output == "json", datetime.now(UTC)
    status = print_operations(entries, links, namespace, now, of=arguments.links, as_json=as_json)
    _print((), links)
    return status


def _run_clear(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if bool(arguments.links) == arguments.all:
        parser.error("expected either the links to clear, or --all")
    store, namespace = records_of(arguments), chosen_namespace(arguments)
    entries, links = OperationEntries(store.api, namespace), NamespaceLinks(store, namespace)
    lines = (
        clear_all(entries) if arguments.all else clear_operations(entries, links, arguments.links, datetime.now(UTC))
    )
    _print(lines or ["there are no operations"], links)
    return 0


def _print(lines: Sequence[str], links: NamespaceLinks) -> None:
    for line in lines:
        print(escape_unprintable(line))
    for fault in links.faults:
        print(f"ratchet: {fault}", file=sys.stderr)


def _completions(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """The declared endpoints of the namespace, for shell completion."""
    store = records_of(parsed_args)
    patient = ApiStore(store.api.patient(COMPLETION_SECONDS), store.namespace, use_topologies=store.topologies.enabled)
    return NamespaceLinks(patient, chosen_namespace(parsed_args)).endpoints()


def _checked(read: Callable[[str], Value]) -> Callable[[str], Value]:
    """A reader of a value for argparse. Raises ArgumentTypeError."""

    def parse(text: str) -> Value:
        try:
            return read(text)
        except ValueError as cause:
            raise argparse.ArgumentTypeError(str(cause)) from cause

    return parse


def _endpoint(text: str) -> str:
    name, _, ifname = text.partition(":")
    if not (name and ifname):
        raise ValueError(f'invalid endpoint "{excerpt(text)}": expected POD:INTERFACE, such as r1:eth1')
    return text


def _times(text: str) -> int:
    return read_times(int(text) if text.isdecimal() else text)
