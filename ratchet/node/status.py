"""STATUS: report in bounded time whether ADD can be served now."""

from __future__ import annotations

from ratchet.cni import delegate
from ratchet.cni.command import Command
from ratchet.errors import RatchetError, UnavailableError
from ratchet.node.call import Call

API_SECONDS = 2.0


def status(call: Call) -> None:
    """Return if ADD can be served (SPEC.md, "STATUS").

    A state directory that is full or read-only is not reported: the runtime would start no pod at all.

    Raises UnavailableError, or a delegate's DelegateError with its code 50 or 51.
    """
    try:
        store = call.connect(API_SECONDS)
        store.ready()
        if call.node or call.network.parent_interface or call.network.parent_address:
            call.node_underlay(store, call.node)
    except RatchetError as cause:
        raise UnavailableError(f"cannot serve ADD: {cause}", details=cause.details) from cause
    for config in call.delegates():
        delegate.status(config, call.network, call.arguments, timeout=call.delegate_seconds(Command.STATUS))
