"""The import of pyroute2's message classes: without the rest of the library, or after all of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

ENCODED = """
import json, sys
{before}
from ratchet.datapath.message_classes import ifinfmsg
message = ifinfmsg()
message["attrs"] = [("IFLA_IFNAME", "in1")]
message.encode()
print(json.dumps([message.data.hex(), sorted(name for name in sys.modules if name.startswith("pyroute2."))]))
"""


def encoded(before: str = "") -> tuple[str, list[str]]:
    """A message that a new interpreter encodes, and the pyroute2 modules that it imported."""
    program = [sys.executable, "-I", "-c", ENCODED.format(before=before)]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    message, modules = json.loads(done.stdout)
    return message, modules


@pytest.fixture(scope="module")
def bare() -> tuple[str, list[str]]:
    return encoded()


def test_the_rest_of_the_library_is_not_imported(bare: tuple[str, list[str]]) -> None:
    _, modules = bare
    assert "pyroute2.netlink.rtnl.ifinfmsg" in modules
    assert not [name for name in modules if name.split(".")[1] in ("ndb", "iproute", "plan9", "ipdb", "nslink")]
    assert len(modules) < 120


def test_an_earlier_import_of_the_whole_library_does_not_change_the_message(bare: tuple[str, list[str]]) -> None:
    message, modules = encoded("import pyroute2")
    assert message == bare[0]
    assert "pyroute2.ndb.main" in modules
