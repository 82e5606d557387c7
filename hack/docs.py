#!/usr/bin/env python3
"""Generate the reference tables in docs/ from the code; with --check, compare them.

A generated part of a page is between `<!-- generated: NAME -->` and `<!-- end -->`. The rest is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ratchet.agent.options import OPTIONS
from ratchet.cli.cluster import add_cluster_options
from ratchet.cli.commands import COMMANDS, make_parser
from ratchet.cli.manual import Manual
from ratchet.cni.config import RETIRED_KEYS, read_config
from ratchet.cni.plugin_keys import PLUGIN_KEYS
from ratchet.errors import InvalidConfigError

DOCS = Path(__file__).resolve().parents[1] / "docs"

_PART = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_DEFAULT = re.compile(r"(?P<meaning>.*?)(?: \(default: (?P<default>.*?)(?:; env: .*)?\))?")
# Flags, commands, files, variables, names of settings, and paths.
_CODE = re.compile(
    r"(?<![\w./'~$-])(--?[a-z][a-z-]*|pip install '[^']+'|\d\d-ratchet\.conflist|\$[A-Z]+|[A-Z]+_[A-Z_]+"
    r"|[a-z]+_[a-z_]+(?:-[a-z]+)*|[~/][\w./-]*\w)(?!\w)"
)
_NOTHING = "–"
_ARGUMENTS = ("argument", "default", "meaning")


def cluster_flags() -> str:
    """The flags of all commands that read the cluster."""
    return _table(_ARGUMENTS, [_argument(action) for action in _cluster_flags()])


def commands() -> str:
    """A section for each command."""
    return "\n".join(_section(parser) for parser in _leaves(make_parser(used=COMMANDS)))


def plugin_keys() -> str:
    """The keys of the network configuration."""
    rows = [
        (_code(key.name), _accepted(key.name), key.default, _yes(not key.daemonless_only), key.meaning)
        for key in PLUGIN_KEYS
    ]
    return _table(("key", "value", "default", "with an agent", "meaning"), rows)


def retired_keys() -> str:
    """The keys of the 2017 prototype that are ignored."""
    return f"Ignored keys of the 2017 prototype: {', '.join(map(_code, RETIRED_KEYS))}.\n"


def agent_settings() -> str:
    """The agent's settings, a table for each group."""
    parts = []
    for group in dict.fromkeys(option.group for option in OPTIONS):
        rows = [
            (
                _code(option.flag if option.metavar else f"--[no-]{option.flag.removeprefix('--')}"),
                ", ".join(map(_code, option.variables)),
                option.accepts,
                option.shown,
                option.help,
            )
            for option in OPTIONS
            if option.group == group
        ]
        title = group[0].upper() + group[1:]
        parts.append(f"### {title}\n\n{_table(('flag', 'variable', 'value', 'default', 'meaning'), rows)}")
    return "\n".join(parts)


PARTS: dict[str, Callable[[], str]] = {
    "cluster-flags": cluster_flags,
    "commands": commands,
    "plugin-keys": plugin_keys,
    "retired-keys": retired_keys,
    "agent-settings": agent_settings,
}


def pages() -> Iterator[tuple[Path, str, str]]:
    """Each page with generated parts: its path, its text, and its text as the code gives it."""
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if _PART.search(text):
            yield path, text, _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", text)


def main() -> int:
    """Write the pages, or with --check compare them; the exit status."""
    parser = argparse.ArgumentParser(description="Generate the reference tables in docs/ from the code.")
    parser.add_argument("--check", action="store_true", help="fail if a page is out of date; write nothing")
    check = parser.parse_args().check
    stale = [(path, new) for path, old, new in pages() if old != new]
    for path, new in stale:
        if check:
            print(f"{path.name} is out of date: run `make docs`", file=sys.stderr)
        else:
            path.write_text(new, encoding="utf-8")
            print(f"    wrote {path.relative_to(DOCS.parent)}")
    return 1 if check and stale else 0


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The commands below a parser that have no commands of their own."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _leaves(command)
            return
    yield parser


def _section(parser: argparse.ArgumentParser) -> str:
    manual: Manual = parser.get_default("manual")
    examples = "\n\n".join(f"# {what}\n{line}" for what, line in manual.examples)
    statuses = [(str(status), meaning) for status, meaning in manual.exit_status.items()]
    arguments = _arguments_of(parser)
    shared = {action.help for action in _cluster_flags()}
    own = [action for action in arguments if action.help not in shared]
    also = "The [cluster flags](#cluster-flags) apply too.\n"
    return "\n".join(
        [
            f"## {parser.prog}\n",
            *(f"{one}\n" for one in map(_quote_code, manual.paragraphs)),
            f"```\n{_usage(parser.prog, arguments)}\n```\n",
            _table(_ARGUMENTS, [_argument(one) for one in own]),
            *([also] if len(own) < len(arguments) else []),
            f"```sh\n{examples}\n```\n",
            _table(("exit status", "meaning"), statuses),
        ]
    )


def _arguments_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]


def _cluster_flags() -> list[argparse.Action]:
    parser = argparse.ArgumentParser()
    add_cluster_options(parser)
    return _arguments_of(parser)


def _usage(prog: str, arguments: Sequence[argparse.Action]) -> str:
    """The usage with all required arguments. argparse's own usage differs between versions of Python."""
    required = [f"{one.option_strings[-1]} {_placeholder(one)}" for one in arguments if _is_required_flag(one)]
    some = any(one.option_strings and not one.required for one in arguments)
    positional = [_placeholder(one) for one in arguments if not one.option_strings]
    return " ".join([prog, *required, *(["[FLAGS]"] if some else []), *positional])


def _is_required_flag(action: argparse.Action) -> bool:
    return bool(action.option_strings) and action.required


def _argument(action: argparse.Action) -> tuple[str, str, str]:
    found = _DEFAULT.fullmatch(action.help or "")
    if found is None:
        raise ValueError(f"the help of {action.dest} is not one line: {action.help}")
    name = ", ".join(map(_code, action.option_strings))
    placeholder = _placeholder(action)
    shown = f"{name} {_code(placeholder)}" if name and placeholder else name or _code(placeholder)
    default = found["default"] or ("required" if _is_required_flag(action) else "")
    return shown, default, found["meaning"].replace("%%", "%")


def _placeholder(action: argparse.Action) -> str:
    """What stands for the value in a usage; "" for a switch."""
    if action.nargs == 0:
        return ""
    one = f"{{{','.join(map(str, action.choices))}}}" if action.choices else str(action.metavar or action.dest.upper())
    return {"+": f"{one}...", "?": f"[{one}]"}.get(str(action.nargs), one)


def _accepted(key: str) -> str:
    """The valid values of a key of the network configuration, as the error for an invalid one names them."""
    try:
        read_config(f'{{"cniVersion": "1.0.0", "name": "n", "type": "ratchet", "{key}": "\\u0000"}}'.encode())
    except InvalidConfigError as error:
        return str(error).partition(" must be ")[2].rpartition(", not ")[0]
    raise AssertionError(f"{key} accepts anything")


def _yes(value: bool) -> str:
    return "applies" if value else "ignored"


def _code(text: str) -> str:
    return f"`{text}`"


def _quote_code(text: str) -> str:
    """A text of --help as Markdown: flags, names of settings, variables, paths and commands as code."""
    parts = text.split("`")
    return "`".join(part if index % 2 else _CODE.sub(r"`\1`", part) for index, part in enumerate(parts))


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        headings,
        ["---"] * len(headings),
        *(map(_cell, row) for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return _quote_code(text).replace("|", "\\|") or _NOTHING


if __name__ == "__main__":
    sys.exit(main())
