"""Values that many objects have in common, kept once in memory: a node has thousands of pods and records.

A value is kept for as long as an object has it.
"""

from __future__ import annotations

from ipaddress import ip_interface
from sys import intern
from weakref import WeakValueDictionary

from ratchet.core.model import Address

# An interface's address and its network take more than half a kilobyte, in a record, its declaration and the journal.
_addresses: WeakValueDictionary[str, Address] = WeakValueDictionary()


def shared_text(text: str) -> str:
    """The text, the same object as every other that is equal. Raises TypeError for what is no text."""
    return intern(text)


def shared_address(text: str) -> Address:
    """The address with its prefix that a text is. Raises ValueError."""
    known = _addresses.get(text)
    if known is None:
        known = _addresses[text] = ip_interface(text)
    return known
