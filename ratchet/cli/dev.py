"""`ratchet dev`: development tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from ratchet.cli.extras import optional_imports
from ratchet.cli.manual import Manual

API_MANUAL = Manual(
    description="""
        Serve the part of the Kubernetes API that Ratchet uses, until SIGTERM or Ctrl-C. Objects are kept in memory. It
        needs pip install 'ratchet-cni[demo]'.
    """,
    examples=(
        ("Serve at a free port of 127.0.0.1", "ratchet dev api --kubeconfig /tmp/kubeconfig"),
        ("Use it", "kubectl --kubeconfig /tmp/kubeconfig create namespace lab"),
    ),
    exit_status={0: "the server stopped", 1: "the server cannot start"},
)


def declare(parser: argparse.ArgumentParser) -> None:
    tools = parser.add_subparsers(required=True, metavar="TOOL")
    api = tools.add_parser("api", help="serve an embedded Kubernetes API")
    API_MANUAL.attach(api)
    api.add_argument(
        "--kubeconfig", type=Path, required=True, metavar="FILE", help="file to write the kubeconfig of the server to"
    )
    api.add_argument("--host", default="127.0.0.1", metavar="ADDR", help="listen address (default: 127.0.0.1)")
    api.add_argument("--port", type=int, default=0, metavar="N", help="listen port (default: any free port)")
    api.add_argument("--tls", action="store_true", help="serve HTTPS, with a certificate that is created at the start")
    api.add_argument("--scheduler", action="store_true", help="bind each pod to a node that its nodeSelector selects")
    api.set_defaults(run=_dev_api)


def _dev_api(arguments: argparse.Namespace) -> int:
    with optional_imports("dev api", "demo"):
        from ratchet.dev.api.server import serve
    serve(
        arguments.kubeconfig,
        arguments.host,
        arguments.port,
        tls=arguments.tls,
        scheduler=arguments.scheduler,
        on_ready=lambda url: print(f"serving {url}, kubeconfig {arguments.kubeconfig}; stop with Ctrl-C", flush=True),
    )
    return 0
