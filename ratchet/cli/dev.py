"""`ratchet dev`: tools for development."""

from __future__ import annotations

import argparse
from pathlib import Path

from ratchet.cli.extras import of_extra


def declare(parser: argparse.ArgumentParser) -> None:
    tools = parser.add_subparsers(required=True, metavar="TOOL")
    api = tools.add_parser("api", help="serve a small Kubernetes API until stopped")
    api.add_argument("--kubeconfig", type=Path, required=True, metavar="FILE", help="written: how to reach it")
    api.add_argument("--host", default="127.0.0.1", metavar="ADDR", help="the address to serve at (127.0.0.1)")
    api.add_argument("--port", type=int, default=0, metavar="N", help="the port to serve at (any free one)")
    api.add_argument("--tls", action="store_true", help="HTTPS, with a certificate made for the purpose")
    api.add_argument("--scheduler", action="store_true", help="bind pods to the nodes that their nodeSelector means")
    api.set_defaults(run=_dev_api)


def _dev_api(arguments: argparse.Namespace) -> int:
    with of_extra("demo"):
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
