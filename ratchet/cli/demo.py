"""`ratchet demo`: the main job, shown on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from ratchet.cli.extras import of_extra


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "story",
        nargs="?",
        choices=("pair", "late-peer", "cloud-router"),
        default="pair",
        help="pair: two pods, as in 2017 (the default); with agents, late-peer: one that comes late, goes, and comes "
        "again; cloud-router: four pods that route",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--keep", action="store_true", help="leave it up, and say how to look around")
    choice.add_argument("--down", action="store_true", help="take down what --keep left up")
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="use this API and not the embedded one")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    with of_extra("demo"):
        from ratchet.dev import demo
    if arguments.down:
        return demo.take_down()
    return demo.run(arguments.story, kubeconfig=arguments.kubeconfig, keep=arguments.keep)
