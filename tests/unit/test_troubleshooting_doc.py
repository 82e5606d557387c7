"""docs/troubleshooting.md lists every error and every Event of the code, and quotes messages of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import pytest

from ratchet import errors
from ratchet.agent import port_clash
from ratchet.agent.events import Reason
from ratchet.agent.node_events import NodeReason
from ratchet.errors import RatchetError
from tests.support.doctables import REPOSITORY, quoted, rows

PAGE = "troubleshooting.md"
SHIM_ONLY_CODES = {5}
ERRORS = rows(PAGE, "Error codes", "code")


def error_classes(kind: type[RatchetError] = RatchetError) -> Iterator[type[RatchetError]]:
    """`kind` and its subclasses in ratchet/errors.py, which are the errors that users see."""
    yield kind
    for one in kind.__subclasses__():
        if one.__module__ == errors.__name__:
            yield from error_classes(one)


def test_every_error_is_listed_with_its_code() -> None:
    listed = [(int(code), name) for code, names, _, _ in ERRORS for name in quoted(names)]
    assert sorted(listed) == sorted((kind.code, kind.__name__) for kind in error_classes())
    assert {int(code) for code, names, _, _ in ERRORS if not quoted(names)} == SHIM_ONLY_CODES


@pytest.mark.parametrize("row", ERRORS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_the_quoted_messages_are_in_the_code(row: list[str]) -> None:
    for message in quoted(row[2]):
        for part in re.split(r"…", message):
            assert part.strip(" .:") in source(), message


@cache
def source() -> str:
    files = [*(REPOSITORY / "ratchet").rglob("*.py"), *(REPOSITORY / "shim").glob("*.c")]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def test_every_event_is_listed_with_its_type() -> None:
    listed = {quoted(reason)[0]: kind for reason, kind, _, _ in rows(PAGE, "Events", "reason")}
    reasons: tuple[Reason | NodeReason, ...] = (*Reason, *NodeReason)
    assert listed == {reason.value: reason.type.value for reason in reasons} | {port_clash.REASON: "Warning"}
