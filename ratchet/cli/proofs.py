"""What the agents have proven of tunnels, for `ratchet links -o wide`.

Records have none of it: a write for each proof would cost more than the links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ratchet.core.kinds import Kind, Wiring
from ratchet.core.model import Link, Side
from ratchet.core.oam import record_id
from ratchet.core.silence import proof_key
from ratchet.errors import RatchetError
from ratchet.store.agents import ask_for_proofs
from ratchet.store.store import ApiStore


@dataclass(frozen=True, slots=True)
class Proofs:
    """The texts of links with proofs, by record name, and a warning about agents that could not be asked."""

    texts: Mapping[str, str] = field(default_factory=dict)
    warning: str = ""


def read_proofs(store: ApiStore, links: Sequence[Link]) -> Proofs:
    """Ask the agents of links that have tunnels in patch panels, each agent once."""
    tunnels = [link for link in links if link.wiring is Wiring.PANEL and link.kind is Kind.VXLAN]
    nodes = sorted({sandbox.node for link in tunnels for side in Side if (sandbox := link.sandbox(side)) is not None})
    if not nodes:
        return Proofs()
    answers = ask_for_proofs(store.api, store.namespace, nodes)
    ends = dict[str, list[Mapping[str, Any]]]()
    for answer in answers.values():
        if not isinstance(answer, RatchetError):
            for key, found in answer["proofs"].items():
                ends.setdefault(key, []).extend(found.values())
    texts = {link.name: proof_text(ends.get(proof_key(record_id(link.uid)), ())) for link in tunnels}
    return Proofs(texts, _warning([one for one in answers.values() if isinstance(one, RatchetError)]))


def proof_text(ends: Sequence[Mapping[str, Any]]) -> str:
    """What is proven of a tunnel, from its ends: the longest silence of one, else the oldest of their last proofs."""
    silent = [end["silent"] for end in ends if end["silent"] is not None]
    verified = [end["verified"] for end in ends if end["verified"] is not None]
    if silent:
        return f"silent {max(silent):.0f}s"
    return f"{max(verified):.0f}s ago" if verified else "-"


def _warning(errors: Sequence[RatchetError]) -> str:
    if not errors:
        return ""
    causes = list(dict.fromkeys(map(str, errors)))  # the same for all if the agents' pods cannot be listed
    others = f", and {len(causes) - 1} more" if len(causes) > 1 else ""
    return f"VERIFIED may be incomplete: {causes[0]}{others}"
