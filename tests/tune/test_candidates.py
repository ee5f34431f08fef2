"""What is tried: each option by itself, the promising values first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mlserve import plugins
from mlserve.load_options import LoadOptions
from mlserve.tune.candidates import candidates, combined, tuned_part


def _flags(cpus: int, backend: str = "onnxruntime", **given: object) -> list[str]:
    found = candidates(plugins.backend(backend), cpus, LoadOptions.from_json(given))
    return [" ".join(options.argv()) for options in found]


def test_one_option_at_a_time_the_largest_numbers_first() -> None:
    assert _flags(12, "echo") == [
        "",
        *("--threads=12", "--processes=12"),
        *("--threads=6", "--processes=6"),
        *("--threads=3", "--processes=3"),
        *("--threads=1", "--processes=1"),
    ]


def test_a_backend_adds_what_it_takes() -> None:
    assert _flags(2) == [
        "",
        *("--threads=2", "--instances=2", "--processes=2"),
        *("--threads=1", "--instances=1", "--processes=1"),
    ]


def test_what_is_given_stays() -> None:
    found = _flags(4, threads=3, processes=1, allow_unsafe_ops=True)

    given = "--threads=3 --processes=1 --allow-unsafe-ops=True"
    instances = "--threads=3 --instances={} --processes=1 --allow-unsafe-ops=True"
    assert found == [given, *map(instances.format, (4, 2, 1))]


@pytest.mark.parametrize(("values", "tried"), [(("cpu",), []), (("cuda", "cpu"), ["cuda", "cpu"])])
def test_texts_are_tried_where_there_is_a_choice(
    values: Sequence[str], tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = plugins.backend("onnxruntime")
    monkeypatch.setattr(type(backend), "values_here", lambda self, option: values)

    found = candidates(backend, 1, LoadOptions())

    assert [options.provider for options in found if options.provider] == tried


def test_a_backend_says_what_this_machine_has() -> None:
    assert "cpu" in plugins.backend("onnxruntime").values_here("provider")
    assert plugins.backend("onnxruntime").values_here("device") == ()


def test_two_of_different_options_are_combined() -> None:
    given = LoadOptions(allow_pickle=True)
    threads = LoadOptions(allow_pickle=True, threads=2)
    instances = LoadOptions(allow_pickle=True, instances=4)

    assert combined(given, [threads, instances]) == LoadOptions(
        allow_pickle=True, threads=2, instances=4
    )
    assert combined(given, [threads, LoadOptions(allow_pickle=True, threads=1)]) is None
    assert combined(given, [threads]) is None


def test_only_what_is_tuned_is_kept() -> None:
    assert tuned_part(LoadOptions(allow_pickle=True, threads=2)) == LoadOptions(threads=2)
