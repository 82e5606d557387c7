"""`ratchet`: the command for people, and for the CronJob."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet import __version__
from ratchet.errors import RatchetError

if TYPE_CHECKING:
    from ratchet.store.records import Records

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status: 0 done, 1 an error that was printed, 2 wrong usage."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        return int(arguments.run(arguments))
    except RatchetError as error:
        print(f"ratchet: {error}", file=sys.stderr)
        if error.details:
            print(f"         {error.details}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    # kubectl runs what is called kubectl-ratchet as `kubectl ratchet`.
    prog = "kubectl ratchet" if Path(sys.argv[0]).name.startswith("kubectl-") else "ratchet"
    parser = argparse.ArgumentParser(prog=prog, description="Point-to-point links between Kubernetes pods.")
    parser.add_argument("--version", action="version", version=f"ratchet {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_links(commands)
    _add_wait(commands)
    _add_graph(commands)
    _add_validate(commands)
    _add_import(commands)
    _add_agent(commands)
    _add_gc(commands)
    _add_install(commands)
    _add_uninstall(commands)
    _add_demo(commands)
    _add_dev(commands)
    return parser


def _add_links(commands: Commands) -> None:
    parser = commands.add_parser("links", help="print the links and where each stands")
    _add_api_options(parser)
    parser.add_argument("-n", "--namespace", help="only links of pods in this namespace (of all)")
    parser.add_argument("--pod", help="only links of the pod of this name")
    parser.add_argument("--node", help="only links with an end on this node")
    parser.add_argument(
        "--state", choices=("pending", "primary-ready", "pair-ready", "linked"), help="only links in it"
    )
    parser.add_argument("-w", "--watch", action="store_true", help="and each again when it has changed; a line each")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.set_defaults(run=_links)


def _add_wait(commands: Commands) -> None:
    parser = commands.add_parser("wait", help="until all links that a namespace wants are linked")
    _add_api_options(parser)
    parser.add_argument("-n", "--namespace", help="whose links (the context's)")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for how long (60)")
    parser.set_defaults(run=_wait)


def _add_graph(commands: Commands) -> None:
    parser = commands.add_parser("graph", help="draw the links of a namespace")
    _add_api_options(parser)
    parser.add_argument("-n", "--namespace", help="whose links (the context's; with -f default)")
    parser.add_argument(
        "-f", "--file", action="append", default=[], help="of manifests, and no cluster; again for more"
    )
    parser.add_argument("-o", "--output", choices=("svg", "png", "dot", "mermaid"), default="mermaid")
    parser.set_defaults(run=_graph)


def _add_validate(commands: Commands) -> None:
    parser = commands.add_parser("validate", help="check manifests before they are applied, without a cluster")
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="of pods, workloads of pods, and topologies; - for stdin"
    )
    parser.add_argument("-n", "--namespace", default="default", help="of pods that name none (default)")
    parser.add_argument("--strict", action="store_true", help="fail for warnings too")
    parser.set_defaults(run=_validate)


def _add_import(commands: Commands) -> None:
    parser = commands.add_parser("import", help="make a topology of a containerlab file, or of meshnet's objects")
    parser.add_argument("file", metavar="FILE", help="- for stdin")
    parser.add_argument("--name", help="of the topology (the file's, else imported)")
    parser.set_defaults(run=_import)


def _add_agent(commands: Commands) -> None:
    from ratchet.agent.settings import add_arguments

    parser = commands.add_parser("agent", help="serve a node: its runtime's calls, and what becomes of its links")
    add_arguments(parser)
    parser.set_defaults(run=_agent)


def _add_gc(commands: Commands) -> None:
    parser = commands.add_parser("gc", help="remove what is left of pods and nodes that are gone")
    _add_api_options(parser)
    parser.add_argument("--grace", type=float, default=300.0, metavar="SECONDS", help="spare what is younger (300)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be removed, and remove nothing")
    parser.set_defaults(run=_gc)


def _add_install(commands: Commands) -> None:
    parser = commands.add_parser("install", help="put the CNI plugin where a container runtime finds it")
    parser.add_argument("--bin-dir", type=Path, required=True, help="the runtime's plugin folder, as /opt/cni/bin")
    parser.add_argument("--conf-dir", type=Path, help="as /etc/cni/net.d: stand behind the network configured there")
    parser.add_argument("--network", type=Path, help="with --conf-dir: the configuration to put there instead")
    parser.add_argument("--kubeconfig", type=Path, help="what the plugin reaches the API with")
    parser.add_argument("--state-dir", type=Path, help="where the plugin keeps its state (/var/lib/cni/ratchet)")
    parser.add_argument("--agent", action="store_true", help="hand each call to the node agent, which runs already")
    parser.add_argument(
        "--no-fallback", dest="fallback", action="store_false", help="with --agent: never do without the agent"
    )
    parser.add_argument(
        "--relocatable", action="store_true", help="bring Python along: the plugin needs nothing of the node's"
    )
    parser.add_argument(
        "--keep",
        metavar="NAMESPACE/DAEMONSET",
        help="see to it that all stays in place, until stopped; then remove it if that DaemonSet is gone "
        "(with --agent --no-fallback, or with --relocatable)",
    )
    parser.add_argument(
        "--write-kubeconfig", type=Path, metavar="FILE", help="with --keep: for the plugin, with this pod's account"
    )
    parser.set_defaults(run=_install)


def _add_uninstall(commands: Commands) -> None:
    parser = commands.add_parser("uninstall", help="take away what install put there")
    parser.add_argument("--bin-dir", type=Path, required=True, help="the runtime's plugin folder, as /opt/cni/bin")
    parser.add_argument("--conf-dir", type=Path, help="as /etc/cni/net.d: the network is then what it was")
    parser.set_defaults(run=_uninstall)


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser("demo", help="two nodes, two pods, a link, a ping, on this machine")
    parser.add_argument("--agent", action="store_true", help="with agents: a peer that comes late, goes, comes again")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--keep", action="store_true", help="leave it up, and say how to look around")
    choice.add_argument("--down", action="store_true", help="take down what --keep left up")
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="use this API and not the embedded one")
    parser.set_defaults(run=_demo)


def _add_dev(commands: Commands) -> None:
    parser = commands.add_parser("dev", help="for development: the embedded API server")
    tools = parser.add_subparsers(required=True, metavar="TOOL")
    api = tools.add_parser("api", help="serve a small Kubernetes API until stopped")
    api.add_argument("--kubeconfig", type=Path, required=True, metavar="FILE", help="written: how to reach it")
    api.add_argument("--host", default="127.0.0.1", metavar="ADDR", help="the address to serve at (127.0.0.1)")
    api.add_argument("--port", type=int, default=0, metavar="N", help="the port to serve at (any free one)")
    api.add_argument("--tls", action="store_true", help="HTTPS, with a certificate made for the purpose")
    api.add_argument("--scheduler", action="store_true", help="bind pods to the nodes that their nodeSelector means")
    api.set_defaults(run=_dev_api)


def _add_api_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kubeconfig", default=None, help="how to reach the API ($KUBECONFIG, ~/.kube/config)")
    parser.add_argument("--context", help="the kubeconfig's context to use (its current one)")
    parser.add_argument(
        "--records-in", metavar="NAMESPACE", default="ratchet", help="where the links are recorded (ratchet)"
    )


def _links(arguments: argparse.Namespace) -> int:
    from ratchet.cli.links import Chosen, follow_links, print_links

    chosen = Chosen(arguments.namespace, arguments.pod, arguments.node, arguments.state)
    show = follow_links if arguments.watch else print_links
    return show(_records(arguments), chosen, as_json=arguments.output == "json")


def _wait(arguments: argparse.Namespace) -> int:
    from ratchet.cli.wait import wait_for_links

    return wait_for_links(_records(arguments), _namespace(arguments), arguments.timeout)


def _graph(arguments: argparse.Namespace) -> int:
    from ratchet.cli.graph import picture_of_cluster, picture_of_files, print_graph

    if arguments.file:
        return print_graph(picture_of_files(arguments.file, arguments.namespace or "default"), arguments.output)
    return print_graph(picture_of_cluster(_records(arguments), _namespace(arguments)), arguments.output)


def _validate(arguments: argparse.Namespace) -> int:
    from ratchet.cli.validate import validate

    return validate(arguments.files, arguments.namespace, strict=arguments.strict)


def _import(arguments: argparse.Namespace) -> int:
    from ratchet.cli.importing import print_imported

    return print_imported(arguments.file, arguments.name)


def _agent(arguments: argparse.Namespace) -> int:
    from ratchet.agent.settings import settings_of

    settings = settings_of(arguments, os.environ)
    try:
        from ratchet.agent.agent import run
    except ModuleNotFoundError as missing:
        raise RatchetError(
            f"cannot import {missing.name}", details="pip install 'ratchet-cni[agent]' brings it"
        ) from missing
    return run(settings)


def _gc(arguments: argparse.Namespace) -> int:
    from ratchet.cli.gc import print_garbage

    return print_garbage(_records(arguments), arguments.grace, dry_run=arguments.dry_run)


def _install(arguments: argparse.Namespace) -> int:
    from ratchet.install.executables import find_shim, install

    _refuse_incomplete(arguments)
    if arguments.keep:
        return _keep(arguments)
    written = install(
        arguments.bin_dir,
        arguments.conf_dir,
        arguments.kubeconfig,
        arguments.state_dir,
        agent=arguments.agent,
        fallback=arguments.fallback,
        relocatable=arguments.relocatable,
        network=arguments.network,
    )
    for path in written:
        print(f"installed {path}")
    if arguments.agent and find_shim() is None:
        print(
            f"there is no shim for this machine ({os.uname().machine}): a Python program stands in for it, which takes "
            "longer to start and keeps no DEL that no agent takes;\n"
            "wheels have the shim for x86_64 and aarch64, in a checkout `make install` builds it, with a C compiler",
            file=sys.stderr,
        )
    return 0


def _refuse_incomplete(arguments: argparse.Namespace) -> None:
    """Raise RatchetError where an option is said of another one that is missing."""
    if not arguments.agent and not arguments.fallback:
        raise RatchetError("cannot install: --no-fallback is said of --agent, which is missing")
    if arguments.network and not arguments.conf_dir:
        raise RatchetError("cannot install: --network is said of --conf-dir, which is missing")
    if arguments.write_kubeconfig and not arguments.keep:
        raise RatchetError("cannot install: --write-kubeconfig is said of --keep, which is missing")
    with_agent_alone = arguments.agent and not arguments.fallback
    if arguments.keep and with_agent_alone is arguments.relocatable:
        raise RatchetError("cannot install: --keep is said of --agent --no-fallback, or else of --relocatable")


def _keep(arguments: argparse.Namespace) -> int:
    from ratchet.cli.keep import keep_installed

    return keep_installed(
        arguments.bin_dir,
        arguments.conf_dir,
        arguments.network,
        arguments.keep,
        agent=arguments.agent,
        kubeconfig=arguments.write_kubeconfig,
    )


def _uninstall(arguments: argparse.Namespace) -> int:
    from ratchet.install import uninstall

    for path in uninstall(arguments.bin_dir, arguments.conf_dir):
        print(f"removed {path}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from ratchet.dev import demo
    except ModuleNotFoundError as missing:
        raise _demo_extra(missing) from missing
    if arguments.down:
        return demo.take_down()
    return demo.run(kubeconfig=arguments.kubeconfig, agent=arguments.agent, keep=arguments.keep)


def _dev_api(arguments: argparse.Namespace) -> int:
    try:
        from ratchet.dev.api.server import serve
    except ModuleNotFoundError as missing:
        raise _demo_extra(missing) from missing
    serve(
        arguments.kubeconfig,
        arguments.host,
        arguments.port,
        tls=arguments.tls,
        scheduler=arguments.scheduler,
        on_ready=lambda url: print(f"serving {url}, kubeconfig {arguments.kubeconfig}; stop with Ctrl-C", flush=True),
    )
    return 0


def _demo_extra(missing: ModuleNotFoundError) -> RatchetError:
    return RatchetError(f"cannot import {missing.name}", details="pip install 'ratchet-cni[demo]' brings it")


def _records(arguments: argparse.Namespace) -> Records:
    from ratchet.store.apiserver import connect
    from ratchet.store.records import Records

    return Records(connect(_kubeconfig(arguments), context=arguments.context), arguments.records_in)


def _namespace(arguments: argparse.Namespace) -> str:
    """The namespace that is meant, as kubectl has it: the one that is named, or else the context's."""
    from ratchet.store.apiserver import namespace_of

    return arguments.namespace or namespace_of(_kubeconfig(arguments), arguments.context)


def _kubeconfig(arguments: argparse.Namespace) -> str | None:
    """Where kubectl would look; None for the account of the pod that this is in."""
    home = Path.home() / ".kube" / "config"
    return arguments.kubeconfig or os.environ.get("KUBECONFIG") or (str(home) if home.is_file() else None)


if __name__ == "__main__":
    sys.exit(main())
