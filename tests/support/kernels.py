"""Tests that need a feature of newer kernels."""

from __future__ import annotations

import os
import re

import pytest


def skip_before_6_5() -> None:
    """Skip a test of a tunnel between two pods of one node."""
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if version is not None and tuple(map(int, version.groups())) < (6, 5):
        pytest.skip("this kernel always bypasses the packet filter within a node (before Linux 6.5)")
