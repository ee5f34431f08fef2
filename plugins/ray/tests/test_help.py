"""The program behind `mlserve up --launcher ray` prints its help."""

from __future__ import annotations

import pytest
from mlserve_ray.flags import parse

from mlserve.cluster_options import ClusterOptions
from mlserve.options import described


def test_the_front_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        parse(["--help"])
    said = capsys.readouterr().out
    for item in described(ClusterOptions):
        assert f"{item.flag} " in said
