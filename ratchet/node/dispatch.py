"""Dispatch a CNI call to its command, for the plugin and for the agent."""

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

_COMMANDS: dict[Command, Callable[[Call], dict[str, Any] | None]] = {
    Command.ADD: add,
    Command.DEL: delete,
    Command.CHECK: check,
    Command.STATUS: status,
    Command.GC: collect,
}


def dispatch(call: Call) -> dict[str, Any] | None:
    """Run the command of a call. Returns the result of ADD, None for the others. Raises RatchetError."""
    require(call.arguments.command, call.network.cni_version)
    return _COMMANDS[call.arguments.command](call)
