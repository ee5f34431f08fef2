"""What is kept: one tuning for a model on a machine, whole or as before."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlserve import paths
from mlserve.errors import UsageError
from mlserve.served_model import ServedModel
from mlserve.store import VersionPolicy
from mlserve.system import cpu_model
from mlserve.tune.machine import Machine
from mlserve.tune.records import Tuning, forget, keep, tunings
from tests.harness.echo import manifest, put_version

Tuned = Callable[..., Tuning]
ELSEWHERE = Machine("Other CPU", 64)


def test_what_is_kept_comes_back(tuned: Tuned) -> None:
    assert tunings() == []
    tuning = tuned(threads=2, provider="cuda")

    keep(tuning)

    assert tunings() == [tuning]
    assert (paths.state_dir() / "tuned.json").stat().st_mode & 0o777 == 0o600


def test_a_newer_one_takes_the_place_of_the_older_on_the_same_machine(tuned: Tuned) -> None:
    first, elsewhere = tuned(threads=2), replace(tuned(threads=4), machine=ELSEWHERE)
    keep(first)
    keep(elsewhere)
    newer = replace(tuned(threads=1), version=2)

    keep(newer)

    assert tunings() == [elsewhere, newer]


def test_forget_drops_what_is_meant(tuned: Tuned) -> None:
    one, other = tuned(threads=2), replace(tuned(threads=2), model="other")
    keep(one)
    keep(other)

    assert forget(lambda tuning: tuning.is_named("echo", "m")) == [one]
    assert tunings() == [other]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSONDecodeError"),
        ('{"format": 99, "tunings": []}', "its format 99 is not known"),
        ('{"format": 1, "tunings": [{}]}', "KeyError: 'backend'"),
        ('{"format": 1, "tunings": [7]}', "TypeError"),
    ],
)
def test_a_file_of_another_shape_is_an_error_that_names_it(
    text: str, said: str, tuned: Tuned
) -> None:
    keep(tuned())
    path = paths.state_dir() / "tuned.json"
    path.write_text(text)

    with pytest.raises(UsageError, match=r"tuned\.json cannot be read") as caught:
        tunings()

    assert said in caught.value.message
    assert "remove the file" in str(caught.value.hint)


def test_a_bad_option_in_it_is_named(tuned: Tuned) -> None:
    keep(tuned(threads=2))
    path = paths.state_dir() / "tuned.json"
    path.write_text(path.read_text().replace('"threads": 2', '"threads": 0'))

    with pytest.raises(UsageError, match="--threads must be at least 1, not 0"):
        tunings()


def test_it_holds_for_these_files_on_this_machine(served: ServedModel, tuned: Tuned) -> None:
    tuning, here = tuned(threads=2), Machine.here()
    assert tuning.why_unfit(served, here) is None
    assert tuning.why_unfit(served, ELSEWHERE) == f"it was made on another machine ({here})"

    (served.base_path / "1" / "echo.json").write_text("{}")
    assert tuning.why_unfit(served, here) is None, "the manifest says what the version is"
    put_version(served.base_path / "2", manifest=manifest())
    newer = replace(served, expected=(2,))
    assert tuning.why_unfit(newer, here) == "it is for version 1, and this is version 2"


def test_files_that_were_changed_are_noticed_without_a_manifest(tmp_path: Path) -> None:
    put_version(tmp_path / "m" / "1")
    served = ServedModel("echo", "m", tmp_path / "m", VersionPolicy(), expected=(1,))
    from mlserve.tune.records import digest_of

    before = digest_of(served)
    (tmp_path / "m" / "1" / "echo.json").write_text(json.dumps({"label": "another"}))

    assert digest_of(served) != before


def test_the_machine_is_named_as_the_kernel_names_it(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\n")

    assert cpu_model(info) == "A CPU @ 2 GHz"
    assert cpu_model(tmp_path / "absent")
    assert str(Machine("A CPU", 1)) == "A CPU, 1 usable CPU"
    assert str(ELSEWHERE) == "Other CPU, 64 usable CPUs"
