"""What this process knows of the guard: how to find the node's tunnels, and the last refusal. It has few imports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ratchet.core.tunnel_guard import GuardedTunnel

FindTunnels = Callable[[], "Iterable[GuardedTunnel]"]


@dataclass(slots=True)
class _State:
    """`find` finds the node's tunnels; None: this process has nothing to find them by.

    `refusal`: why the kernel refused a change of the table to this process; empty once it has accepted a tunnel again.
    """

    find: FindTunnels | None = None
    refusal: str = ""


_state = _State()


def restore_from(find: FindTunnels) -> None:
    """Have this process make a missing table again with the tunnels that `find` returns. It is not called otherwise."""
    _state.find = find


def find_tunnels() -> tuple[GuardedTunnel, ...]:
    """The node's tunnels; none if this process has nothing to find them by."""
    return tuple(_state.find()) if _state.find is not None else ()


def refusal() -> str:
    """Why the kernel refused a change of the table to this process; empty once it has accepted a tunnel again."""
    return _state.refusal


def note_refusal(refusal: str) -> None:
    """Note why the kernel refused a change; empty: it has accepted a tunnel."""
    _state.refusal = refusal
