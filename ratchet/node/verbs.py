"""The CNI verbs, as every host serves them: from a call to what goes to stdout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ratchet.cni.arguments import Command
from ratchet.cni.versions import require
from ratchet.node.add import add
from ratchet.node.call import Call
from ratchet.node.check import check
from ratchet.node.collect import collect
from ratchet.node.delete import delete
from ratchet.node.status import status

_VERBS: dict[Command, Callable[[Call], dict[str, Any] | None]] = {
    Command.ADD: add,
    Command.DEL: delete,
    Command.CHECK: check,
    Command.STATUS: status,
    Command.GC: collect,
}


def serve(call: Call) -> dict[str, Any] | None:
    """Do what the runtime asks; the result of ADD, None for the others. Raises RatchetError."""
    require(call.arguments.command, call.network.cni_version)
    return _VERBS[call.arguments.command](call)
