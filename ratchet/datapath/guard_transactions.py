"""Transactions of the guard's table: retried after changes of others, and refusals noted for the host's log."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ratchet.datapath.guard_state import note_refusal
from ratchet.datapath.nftables import Nftables
from ratchet.datapath.rtnetlink import RefusedError
from ratchet.errors import DatapathError, GuardError
from ratchet.retry import call_with_retries

if TYPE_CHECKING:
    import tenacity

ERESTART = 85  # the generation has changed (include/linux/errno.h)
RETRY_SECONDS = 5.0

ADVICE = "The node's kernel needs nf_tables with the family inet. Ratchet needs CAP_NET_ADMIN in the node's network."

Result = TypeVar("Result")


# Threads of one process take turns: each of their transactions would make the others decide again.
turn = threading.RLock()


def with_retries(once: Callable[[Nftables], Result]) -> Result:
    """Run `once` on a channel, again if another transaction has changed what it has read."""
    with turn, Nftables() as channel:
        return call_with_retries(lambda: once(channel), RefusedError, _retries)


def _retries(elapsed: float) -> tenacity.Retrying:
    """Retry after changes of other processes, with random pauses, for a limited time."""
    import tenacity  # only for a retry: the import takes 7 ms

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, RefusedError) and error.errno == ERESTART),
        wait=tenacity.wait_random_exponential(multiplier=0.001, max=0.1),
        stop=tenacity.stop_after_delay(RETRY_SECONDS - elapsed),
        reraise=True,
    )


def in_channel(once: Callable[[Nftables], Result]) -> Result:
    """Run `once` on a channel."""
    with Nftables() as channel:
        return once(channel)


def checked(verb: str, act: Callable[[], Result]) -> Result:
    """The result of `act`. Raises GuardError if the kernel refuses."""
    try:
        return act()
    except (RefusedError, DatapathError) as error:
        cause = error.strerror if isinstance(error, RefusedError) else error
        raise GuardError(f"cannot {verb} the guard of the tunnel port: {cause}", details=ADVICE) from error


def noted(verb: str, act: Callable[[], Result], *, proves: bool = False) -> Result:
    """As `checked`, and notes a refusal. `proves`: success shows that the kernel takes tunnels into the table."""
    try:
        result = checked(verb, act)
    except GuardError as error:
        note_refusal(str(error))
        raise
    if proves:
        note_refusal("")
    return result


def is_done(act: Callable[[], object], *, proves: bool = False) -> bool:
    """Whether the kernel accepted a change."""
    try:
        noted("change", act, proves=proves)
    except GuardError:
        return False
    return True
