"""Values that many objects share, kept once in memory: a node has thousands of pods and records.

A value is kept for as long as an object refers to it.
"""

from __future__ import annotations

from ipaddress import ip_interface
from sys import intern
from weakref import WeakValueDictionary

from ratchet.core.endpoint_spec import Address

# An interface's address and its network take more than half a kilobyte, in a record, its declaration and the journal.
_addresses: WeakValueDictionary[str, Address] = WeakValueDictionary()


def shared_text(text: str) -> str:
    """The text, as one object for all equal texts. Raises TypeError if it is not a str."""
    return intern(text)


def shared_address(text: str) -> Address:
    """Parse an address with its prefix, as one object for all equal texts. Raises ValueError."""
    known = _addresses.get(text)
    if known is None:
        known = _addresses[text] = ip_interface(text)
    return known
