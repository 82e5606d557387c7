"""A link as one place declares it."""

from __future__ import annotations

from typing import NamedTuple

from ratchet.core.kinds import Wiring
from ratchet.core.model import Link


class DeclaredLink(NamedTuple):
    """A declared link and the place of its declaration, which is empty for labels.

    `wiring` is the declared one. None: none is declared, and the link's own is not decided yet
    (`WantedLink.effective_wiring`). `live`: running pods follow edits of the declaration.
    """

    place: str
    link: Link
    wiring: Wiring | None = None
    live: bool = False
