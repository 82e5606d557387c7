"""The valid attachments that a runtime passes to GC (SPEC.md, section 2, "GC")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ratchet.cni.config_errors import invalid_key

# An early text of the specification had the second name by mistake; libcni writes both (cni#1101).
VALID_ATTACHMENTS_KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")


@dataclass(frozen=True, slots=True)
class ValidAttachment:
    """A valid attachment in a GC call: the container ID and interface name of its ADD."""

    container_id: str
    ifname: str


def valid_attachments(raw: Mapping[str, Any]) -> tuple[ValidAttachment, ...] | None:
    """The valid attachments in a network configuration; None if there is no list. Raises InvalidConfigError."""
    key = next((key for key in VALID_ATTACHMENTS_KEYS if key in raw), VALID_ATTACHMENTS_KEYS[0])
    # libcni writes null for a list that was never created. That is a missing list, not an empty one.
    listed = raw.get(key)
    if listed is None:
        return None
    if not isinstance(listed, list):
        raise invalid_key(key, "a list of attachments", listed)
    return tuple(_attachment(item, f"{key}[{index}]") for index, item in enumerate(listed))


def _attachment(item: object, at: str) -> ValidAttachment:
    if isinstance(item, dict):
        container_id, ifname = item.get("containerID"), item.get("ifname")
        if isinstance(container_id, str) and isinstance(ifname, str) and container_id and ifname:
            return ValidAttachment(container_id, ifname)
    raise invalid_key(at, 'an object with "containerID" and "ifname"', item)
