"""The image of the examples' routers, FRR, for nodes that reach no registry: of Debian's packages, made once.

It has the name of the image that FRR's developers publish, and its files where that has them, so that manifests are the
same here and on a cluster that pulls it.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from ratchet.dev import debian
from ratchet.dev.building import Say, cache, new_folder
from ratchet.dev.oci import Image, Layer, write_archive

NAME = "quay.io/frrouting/frr:8.4.2"
SUITE = "bookworm"  # the one with FRR 8.4
PACKAGES = ("frr", "iputils-ping", "traceroute", "tini")
START = Path("usr/lib/frr/docker-start")

# All files of an image made here are root's, and the daemons are not root.
_START = """\
#!/bin/bash
. /lib/lsb/init-functions
install -d -o frr -g frr /run/frr /var/lib/frr /var/log/frr
. /usr/lib/frr/frrcommon.sh
exec /usr/lib/frr/watchfrr $(daemon_list)
"""


def frr_image(say: Say) -> Path:
    """The image's archive, which is made if it has not been. Raises RatchetError."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    folder = cache() / f"frr-{SUITE}-{digest}"
    if not folder.is_dir():
        say(f"the image of FRR, of Debian {SUITE}, into {folder}, once")
        with new_folder(folder) as partial, tempfile.TemporaryDirectory(dir=partial) as emptied:
            root = Path(emptied) / "root"
            _fill(root, say)
            image = Image(NAME, ["/usr/bin/tini", "--", f"/{START}"], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
            write_archive(image, [Layer.of(root, compress=False)], partial / "frr.tar")
    return folder / "frr.tar"


def _fill(root: Path, say: Say) -> None:
    debian.bootstrap(root, SUITE, PACKAGES, say)
    debian.strip(root)
    (root / START).write_text(_START)
    (root / START).chmod(0o755)
