"""The build backend: hatchling, plus the compiled programs of shim/ in every wheel.

The programs are cross-compiled for each machine by ziglang's C compiler. This module is a backend and not only a build
hook, because only a backend can require ziglang, which is large, for wheels alone. An editable install does not need
it: `make install` compiles the programs with the system's compiler.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling import build as hatchling
from hatchling.build import *  # noqa: F403  # a backend is a module of functions
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Pinned, so that everyone who builds a release gets the same bytes.
ZIGLANG = "ziglang==0.17.1"
MACHINES = ("x86_64", "aarch64")
PROGRAMS = ("ratchet", "launcher")


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return [*hatchling.get_requires_for_build_wheel(config_settings), ZIGLANG]


class Shims(BuildHookInterface):
    """Adds the programs of shim/ to a wheel, and the licence of the C library that they contain."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        self._built = TemporaryDirectory(prefix="ratchet-shim-")
        for machine in MACHINES:
            for name in PROGRAMS:
                program = Path(self._built.name, machine, name)
                self._compile(machine, program)
                build_data["force_include"][str(program)] = f"ratchet/shim/{machine}/{name}"
        build_data["force_include"][str(_musl_licence())] = "ratchet/shim/COPYRIGHT.musl"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if version != "editable":
            self._built.cleanup()

    def _compile(self, machine: str, program: Path) -> None:
        program.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "ziglang", "cc", "@shim/flags", "-Werror", "-static", "-s"]
        target = ["-target", f"{machine}-linux-musl", "-o", str(program), f"shim/{program.name}.c"]
        # Zig needs a cache folder. By default, the build leaves nothing outside its own folders.
        caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), self._built.name)
        subprocess.run([*command, *target], check=True, cwd=self.root, env={**caches, **os.environ})
        program.chmod(0o755)


def _musl_licence() -> Path:
    import ziglang

    return Path(ziglang.__file__).parent / "lib" / "libc" / "musl" / "COPYRIGHT"
