"""How many calls of a model run at once: a backend may have its Runners given more than threads."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlserve_echo import EchoBackend

from mlserve.load_options import LoadOptions
from mlserve.server.models.versions import ModelSpec
from mlserve.store import VersionPolicy
from mlserve.system import usable_cpus


class _Ahead(EchoBackend):
    calls_ahead = 1


@pytest.mark.parametrize(
    ("options", "at_once"),
    [
        (LoadOptions(), usable_cpus() + 1),
        (LoadOptions(threads=3), 4),
        (LoadOptions(threads=3, processes=1), 4),
        (LoadOptions(threads=3, processes=2), 3),  # each process has one call at a time
        (LoadOptions(threads=2, processes=4), 4),
    ],
)
def test_a_call_ahead_is_one_beside_those_that_have_threads(
    tmp_path: Path, options: LoadOptions, at_once: int
) -> None:
    spec = ModelSpec(_Ahead(), "m", tmp_path, VersionPolicy(), options, 0)
    assert spec.calls_at_once == at_once
