"""Remove what pods have left in the patch panel, whose namespaces died without DEL."""

from __future__ import annotations

import logging

from ratchet.errors import RatchetError

log = logging.getLogger(__name__)


def sweep_panel(path: str) -> None:
    """Remove leftovers from the patch panel at `path`. A fault is logged: leftovers harm no link."""
    from ratchet.datapath.panel.leftovers import sweep  # few calls need it

    try:
        removed = sweep(path)
    except RatchetError as error:
        log.warning('patch panel not cleaned up cause="%s"', error)
        return
    if removed:
        log.info("leftovers removed from the patch panel tunnels=%s", ",".join(removed))
