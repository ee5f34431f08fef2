"""A setting is checked in one place, whether a flag, Python or a server's record gives it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlserve.errors import UsageError
from mlserve.options import described, flag_of
from mlserve.settings import ServerSettings
from mlserve.system import usable_memory

WRONG = (
    ("max_batch_size", 0, "--max-batch-size must be at least 1, not 0"),
    ("max_queue", -1, "--max-queue must be at least 0, not -1"),
    ("record_bytes", 1000, "--record-bytes must be at least 1048576, not 1000"),
    ("max_pixels", "many", "'many' is not a valid value of --max-pixels"),
    ("default_timeout", float("nan"), "'nan' is not a valid value of --default-timeout"),
    ("drain_timeout", float("inf"), "'inf' is not a valid value of --drain-timeout"),
    ("log_format", "yaml", "'yaml' is not a valid value of --log-format"),
    ("max_share", "0.3", "'0.3' is not a valid value of --max-share"),
    ("max_share", "batch=0.3", "--max-share needs --token-file"),
)
EACH = pytest.mark.parametrize(
    ("name", "value", "said"), WRONG, ids=[f"{row[0]}={row[1]}" for row in WRONG]
)


@pytest.mark.server
@EACH
def test_a_flag_of_the_server(name: str, value: Any, said: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mlserve.server", "--backend", "echo", "--model", "m"),
            *("--base-path", "nowhere", f"{flag_of(name)}={value}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert f"ERROR {said}" in done.stderr
    assert "ERROR hint: " in done.stderr


@pytest.mark.server
@EACH
def test_an_option_of_up(name: str, value: Any, said: str, home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlserve", "up", f"{flag_of(name)}={value}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert f"error: {said}" in done.stderr
    assert "hint: " in done.stderr


@EACH
def test_a_record(name: str, value: Any, said: str) -> None:
    data = json.loads(json.dumps({name: value}))

    with pytest.raises(UsageError) as caught:
        ServerSettings.from_json(data)
    assert caught.value.message == said


@pytest.mark.parametrize("value", [True, "1", 1.5, [], float("nan")])
def test_python_gets_no_further_with_another_type(value: Any) -> None:
    with pytest.raises(UsageError, match="is not a valid value of --max-batch-size"):
        ServerSettings(max_batch_size=value)


def test_an_eighth_of_the_memory_may_wait() -> None:
    assert ServerSettings().queue_bytes == usable_memory() // 8
    assert ServerSettings(max_queue_bytes=5000).queue_bytes == 5000


def test_shares_are_read_from_the_setting() -> None:
    settings = ServerSettings(token_file=Path("tokens"), max_share="batch=0.3,web=0.5")

    assert settings.shares == {"batch": 0.3, "web": 0.5}
    assert ServerSettings.from_json(settings.to_json()) == settings
    assert "--max-share=batch=0.3,web=0.5" in settings.argv()
    assert ServerSettings().shares == {}


def test_every_default_is_a_value_that_is_taken() -> None:
    given = {setting.name: setting.default for setting in described(ServerSettings)}

    assert ServerSettings(**given) == ServerSettings()
    assert ServerSettings.from_json(ServerSettings().to_json()) == ServerSettings()
