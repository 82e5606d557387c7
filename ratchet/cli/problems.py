"""Problems of manifests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """An error or a warning.

    An error keeps a pod from starting or a link from being made. A warning may be intended.
    """

    is_error: bool
    text: str
