"""What holds for every test: generated examples are the same in every run, and as slow as the machine is."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("ci")
