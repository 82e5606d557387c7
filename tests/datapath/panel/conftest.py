from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.namespaces import Bed
from tests.support.panels import Panels


@pytest.fixture
def panels(bed: Bed, tmp_path: Path) -> Iterator[Panels]:
    with Panels(bed, str(tmp_path)) as made:
        yield made
