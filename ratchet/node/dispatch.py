"""Dispatch a CNI call to its command, for the plugin and for the agent."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from ratchet.cni.command import Command
from ratchet.cni.versions import require
from ratchet.node.call import Call


def dispatch(call: Call) -> dict[str, Any] | None:
    """Run the command of a call. Returns the result of ADD, None for the others. Raises RatchetError."""
    command = call.arguments.command
    require(command, call.network.cni_version)
    with call.interrupts.deferred() if command is Command.DEL else nullcontext():
        return _run(command, call)


def _run(command: Command, call: Call) -> dict[str, Any] | None:
    """Run a command. Only its module is imported: the daemonless plugin runs one command per process."""
    match command:
        case Command.ADD:
            from ratchet.node.add import add

            return add(call)
        case Command.DEL:
            from ratchet.node.delete import delete

            delete(call)
        case Command.CHECK:
            from ratchet.node.check import check

            check(call)
        case Command.STATUS:
            from ratchet.node.status import status

            status(call)
        case Command.GC:
            from ratchet.node.collect import collect

            collect(call)
        case Command.VERSION:
            raise AssertionError("VERSION has no network configuration to serve it with")
    return None
