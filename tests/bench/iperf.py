"""The throughput between two namespaces, measured with iperf3."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ratchet.dev.hosts import command_in
from ratchet.dev.testbed import wait_for
from ratchet.errors import RatchetError

IPERF3 = "iperf3"
SECONDS = 1
PORT = 5201


def sent(near: str, far: str, address: str) -> float:
    """Send one TCP stream from the namespace `near` to `address` in `far`. Returns the Gbit/s that have arrived.

    Raises RatchetError.
    """
    program = [IPERF3, "--server", "--one-off", "--bind", address, "--port", str(PORT)]
    server = subprocess.Popen(command_in(far, *program), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("the server of iperf3", lambda: _listens(far, server))
        program = [IPERF3, "--client", address, "--port", str(PORT), "--time", str(SECONDS), "--json"]
        done = subprocess.run(command_in(near, *program), check=False, capture_output=True, text=True, timeout=30.0)
        if done.returncode != 0:
            raise RatchetError(f"cannot send to {address}: {done.stdout[-500:]} {done.stderr[-500:]}")
        return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9
    finally:
        server.kill()
        server.wait()


def _listens(netns: str, server: subprocess.Popen[bytes]) -> bool:
    if server.poll() is not None:
        raise RatchetError(f"cannot start {IPERF3}: it ended with {server.returncode}")
    tables = (Path(f"/proc/{server.pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    return any(line.split()[1].endswith(f":{PORT:04X}") and line.split()[3] == "0A" for one in tables for line in one)
