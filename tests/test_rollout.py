"""What `--shadow` and `--split` may say, and how it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlserve.config.servers import read_config
from mlserve.errors import UsageError
from mlserve.rollout import RolloutOptions, Split
from mlserve.served_model import ServedModel
from mlserve.settings import ServerSettings
from mlserve.store import VersionPolicy


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("v2=5%", Split(2, 0.05)),
        ("2=0.25", Split(2, 0.25)),
        ("v12=50%, differ=3%, check=20%", Split(12, 0.5, 0.03, 0.2)),
        ("v2=5%,differ=1", Split(2, 0.05, 1.0)),
    ],
)
def test_a_split(text: str, split: Split) -> None:
    assert Split.parse(text) == split
    assert RolloutOptions(split=text).aside == split.version


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5%", "names no version"),
        ("v2", "its share in --split must be a share such as 5% or 0.05, not ''"),
        ("v2=0%", "must be above 0 % and below 100 %, not 0%"),
        ("v2=100%", "must be above 0 % and below 100 %, not 100%"),
        ("v2=5", "its share in --split must be a share"),
        ("v2=nan", "its share in --split must be a share"),
        ("v2=5%,differs=1%", "does not know 'differs': there are differ and check"),
        ("v2=5%,differ=x", "differ in --split must be a share such as 5% or 0.05, not 'x'"),
    ],
)
def test_a_wrong_split(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        ServerSettings(split=text)
    assert said in refused.value.message
    assert refused.value.hint


def test_a_shadow() -> None:
    version = RolloutOptions(shadow="v2")
    assert (version.shadow_version, version.shadow_endpoint, version.aside) == (2, None, 2)
    server = RolloutOptions(shadow="http://there:8501", shadow_token_file=Path("token"))
    assert (server.shadow_version, server.aside) == (None, None)
    assert server.shadow_endpoint == "http://there:8501"
    for options in ({"shadow": "latest"}, {"shadow": "a b:1"}, {"shadow_token_file": Path("x")}):
        with pytest.raises(UsageError) as refused:
            RolloutOptions(**options)
        assert refused.value.hint
    with pytest.raises(UsageError, match="do not go together"):
        RolloutOptions(shadow="2", split="v3=5%")


def test_a_version_that_is_aside_is_not_the_latest_unless_there_is_no_other() -> None:
    aside = VersionPolicy(aside=3)
    assert aside.wanted([1, 2, 3]) == (2,)
    assert aside.wanted([3]) == (3,)
    assert VersionPolicy(serves_all=True, aside=3).wanted([1, 2, 3]) == (1, 2)
    assert VersionPolicy((1, 3), aside=3).wanted([1, 2, 3]) == (1,)
    assert VersionPolicy((3,), aside=3).wanted([1, 2, 3]) == (3,)


def test_the_record_of_a_server_keeps_it() -> None:
    rollout = RolloutOptions(split="v2=5%")
    model = ServedModel(
        "echo", "m", Path("/m"), VersionPolicy(aside=2), rollout=rollout, expected=(1,)
    )
    assert ServedModel.from_json(model.to_json()) == model
    plain = ServedModel("echo", "m", Path("/m"))
    older = {k: v for k, v in plain.to_json().items() if k not in ("shadow", "split")}
    assert ServedModel.from_json(older) == plain


def written(folder: Path, text: str) -> Path:
    path = folder / "mlserve.toml"
    path.write_text(text)
    return path


def test_a_file_has_it_for_a_model_or_for_the_server_of_one(tmp_path: Path) -> None:
    one = written(
        tmp_path, '[servers.a]\nshadow = "2"\n[servers.a.models.m]\npath = "m"\nbackend = "echo"\n'
    )
    [model] = read_config(one).server("a").models
    assert (model.rollout.shadow, model.versions.aside) == ("2", 2)
    several = written(
        tmp_path,
        '[servers.a]\n[servers.a.models.m]\npath = "m"\nbackend = "echo"\nsplit = "v2=5%"\n'
        '[servers.a.models.n]\npath = "n"\nbackend = "echo"\n',
    )
    m, n = read_config(several).server("a").models
    assert (m.rollout.split, m.versions.aside) == ("v2=5%", 2)
    assert (n.rollout.changed, n.versions.aside) == ({}, None)


@pytest.mark.parametrize(
    ("server", "model", "said"),
    [
        ("", 'split = "v2"', "7:9: its share in split must be a share"),
        ("", 'shadow = "2"\nsplit = "v3=1%"', "shadow and split do not go together"),
        ('split = "v2=5%"', "", "2:1: split is for a version of one model"),
        ("", "shadow = 2", "shadow must be a text in quotes, not 2"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(
    tmp_path: Path, server: str, model: str, said: str
) -> None:
    path = written(
        tmp_path,
        f"[servers.a]\n{server}\n[servers.a.models.n]\n"
        f'path = "n"\n[servers.a.models.m]\npath = "m"\n{model}\n',
    )
    with pytest.raises(UsageError) as refused:
        read_config(path)
    assert said in refused.value.message
    assert "mlserve.toml:" in refused.value.message
