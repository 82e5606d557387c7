"""What this process knows of the links whose cables are patched to tunnels of the panel.

A pass notes whether a link is complete, the reader of OAM frames notes what the far pod does. Both decide the carrier
of the cable (`core.carrier.settle_tunnel`), and so do later passes. A tunnel is known by the panel's cookie and its
ifindex there.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class TunnelState:
    """What is known of the link with this record name. None: unknown.

    `complete`: the cable may have carrier. `far_up`: IFF_UP of the far pod's end.
    """

    link: str
    complete: bool | None = None
    far_up: bool | None = None


# By cookie and ifindex. The lock is for changes.
_states: dict[tuple[int, int], TunnelState] = {}
_changing = threading.Lock()


def tunnel_state(cookie: int, index: int, link: str) -> TunnelState:
    """What is known of a link at a tunnel."""
    state = _states.get((cookie, index))
    return state if state is not None and state.link == link else TunnelState(link)


def link_at(cookie: int, index: int) -> str:
    """The link for which something was noted at a tunnel; empty if nothing was."""
    state = _states.get((cookie, index))
    return "" if state is None else state.link


def note_complete(cookie: int, index: int, link: str, complete: bool) -> None:
    """Note whether a link is complete. Call it before the carrier is changed accordingly."""
    with _changing:
        _states[cookie, index] = replace(tunnel_state(cookie, index, link), complete=complete)


def note_observed(cookie: int, index: int, link: str, complete: bool) -> None:
    """Note whether a link is complete, unless that is known: an observation may be older than the last change."""
    with _changing:
        state = tunnel_state(cookie, index, link)
        if state.complete is None:
            _states[cookie, index] = replace(state, complete=complete)


def note_far_pod(cookie: int, index: int, link: str, up: bool | None) -> None:
    """Note IFF_UP of the far pod's end, unless a pass has given the tunnel to another link. Settle the carrier then."""
    with _changing:
        if link_at(cookie, index) in ("", link):
            _states[cookie, index] = replace(tunnel_state(cookie, index, link), far_up=up)


def forget_tunnel(cookie: int, index: int) -> None:
    """Forget a tunnel that was deleted."""
    with _changing:
        _states.pop((cookie, index), None)
