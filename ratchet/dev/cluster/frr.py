"""An image of FRR for nodes without a registry, built from Debian's packages once.

It has the name of the image that FRR's developers publish, and the same paths, so that the example manifests work
unchanged.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from ratchet.dev import debian
from ratchet.dev.building import Report, cache_folder, new_folder
from ratchet.dev.oci import Image, Layer, write_archive

NAME = "quay.io/frrouting/frr:8.4.2"
SUITE = "bookworm"  # the one with FRR 8.4
PACKAGES = ("frr", "iputils-ping", "traceroute", "tini")
START = Path("usr/lib/frr/docker-start")

# All files of this image belong to root, but the daemons do not run as root.
_START = """\
#!/bin/bash
. /lib/lsb/init-functions
install -d -o frr -g frr /run/frr /var/lib/frr /var/log/frr
. /usr/lib/frr/frrcommon.sh
exec /usr/lib/frr/watchfrr $(daemon_list)
"""


def frr_image(report: Report) -> Path:
    """Build the image if missing, and return its archive. Raises RatchetError."""
    digest = hashlib.sha256("\0".join([NAME, *PACKAGES, str(START), _START]).encode()).hexdigest()[:12]
    folder = cache_folder() / f"frr-{SUITE}-{digest}"
    if not folder.is_dir():
        report(f"building the image of FRR in {folder}, once")
        with new_folder(folder) as partial, tempfile.TemporaryDirectory(dir=partial) as folder_of_root:
            root = Path(folder_of_root) / "root"
            _fill(root, report)
            image = Image(NAME, ["/usr/bin/tini", "--", f"/{START}"], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
            write_archive(image, [Layer.of(root, compress=False)], partial / "frr.tar")
    return folder / "frr.tar"


def _fill(root: Path, report: Report) -> None:
    debian.bootstrap(root, SUITE, PACKAGES, report)
    debian.strip(root)
    (root / START).write_text(_START)
    (root / START).chmod(0o755)
