"""The netlink message classes of pyroute2, without the rest of the library.

The only importer of pyroute2. `import pyroute2` runs an `__init__` that imports some 190 modules which the message
classes do not need: 90 ms of CPU in every call of the daemonless plugin, and memory in every agent. So the package is
put into `sys.modules` without running its `__init__`, unless it is there already.
"""

from __future__ import annotations

import importlib.util
import sys


def _import_without_init(package: str) -> None:
    """Make submodules of a package importable. If the package is missing, their import raises the usual error."""
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    if spec is not None:
        sys.modules[package] = importlib.util.module_from_spec(spec)


_import_without_init("pyroute2")

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: E402
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: E402
from pyroute2.netlink.rtnl.ndmsg import ndmsg  # noqa: E402
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg  # noqa: E402
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: E402
from pyroute2.netlink.rtnl.tcmsg import tcmsg  # noqa: E402

__all__ = ["ifaddrmsg", "ifinfmsg", "ndmsg", "nsidmsg", "rtmsg", "tcmsg"]
