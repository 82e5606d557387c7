"""The command of a chaos run: `hack/chaos --minutes N --seed S`."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import traceback
from pathlib import Path

from ratchet.dev.cluster.cluster import Cluster
from ratchet.errors import RatchetError
from tests.chaos.run import InvariantError, Run
from tests.chaos.steps import Fault, Kind
from tests.chaos.world import Server, World, built_world, real_server, server_of

REPORTS = Path("build/chaos")
HISTORY_LINES = 400


def main() -> int:
    """Run, and print a summary. Returns 1 if a condition did not hold."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that namespaces and mounts are removed
    print(f"==> Chaos run: seed {arguments.seed}, {arguments.minutes:g} minutes", flush=True)
    with built_world(_server(arguments)) as world:
        run = Run(world, lambda line: print(f"    {line}", flush=True))
        try:
            run.go(arguments.seed, arguments.minutes)
        except Exception as failure:  # noqa: BLE001  # of a condition, or of the run itself: both need the history
            if not isinstance(failure, InvariantError):
                traceback.print_exc()
            _report_failure(world, arguments.seed, failure)
            return 1
        finally:
            run.close()
        print(_summary(run), flush=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hack/chaos", description="Run agents under random faults.")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the run (default: 10)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 32), help="seed of the steps (default: random)"
    )
    servers = parser.add_mutually_exclusive_group()
    servers.add_argument("--kubeconfig", type=Path, help="an API server to use (default: the embedded one)")
    servers.add_argument(
        "--cluster", type=Path, help="folder of a cluster of hack/cluster, whose API server is used and restarted"
    )
    return parser.parse_args()


def _server(arguments: argparse.Namespace) -> Server:
    if arguments.cluster:
        return server_of(Cluster(arguments.cluster.absolute()))
    return real_server(arguments.kubeconfig) if arguments.kubeconfig else Server()


def _summary(run: Run) -> str:
    log = run.world.log
    lines = ["    steps:", *(f"      {kind}: {log.counts[kind]}" for kind in Kind if log.counts[kind])]
    lines += ["    faults:", *(f"      {fault}: {log.counts[fault]}" for fault in Fault if log.counts[fault])]
    lines += [
        f"    links up at quiet points: {run.links_made}",
        f"    pings: {run.monitor.pings}",
        "    peak of each agent:",
    ]
    lines += [f"      {name}: {node.peak}" for name, node in run.nodes.items()]
    return "\n".join(lines)


def _report_failure(world: World, seed: int, failure: Exception) -> None:
    """Print the history, the seed and what failed. REPORTS keeps the history, logs, journals and objects of the API."""
    folder = REPORTS / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history").write_text("\n".join([*world.log.lines, "", str(failure), ""]))
    for name, agent in world.bed.agents.items():
        shutil.copy(agent.log, folder / f"agent-{name}.log")
        shutil.copytree(world.bed.kubelets[name].state_dir, folder / f"state-{name}", dirs_exist_ok=True)
    _keep_objects(world, folder)
    print("\n".join(world.log.lines[-HISTORY_LINES:]))
    print(f"\nThe run failed with seed {seed} after {world.log.seconds:.0f} s:\n{failure}")
    print(f"\nThe history, logs, journals and objects are in {folder}", flush=True)


def _keep_objects(world: World, folder: Path) -> None:
    """Write the ConfigMaps, Leases and pods as the API has them now."""
    api = world.bed.api
    for name, path in (
        ("configmaps", "/api/v1/configmaps"),
        ("leases", "/apis/coordination.k8s.io/v1/leases"),
        ("pods", "/api/v1/pods"),
    ):
        try:
            text = json.dumps(api.list_decoded(path, lambda item: item)[0], indent=1)
        except RatchetError as error:
            text = str(error)
        (folder / f"{name}.json").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
