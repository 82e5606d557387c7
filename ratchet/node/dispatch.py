"""Dispatch a CNI call to its command, for the plugin and for the agent."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
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
    command = call.arguments.command
    require(command, call.network.cni_version)
    with call.interrupts.deferred() if command is Command.DEL else nullcontext():
        return _COMMANDS[command](call)
