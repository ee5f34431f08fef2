"""PyTorch's files told apart by content; nothing in them runs unless the user allows it."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlserve_torch.archive import (
    FileKind,
    has_known_suffix,
    is_for_cuda,
    kind_of,
    moved_to_cpu,
    require_safe,
)
from mlserve_torch.program import opened
from torch import nn

from mlserve.errors import ExportError

pytestmark = pytest.mark.framework

CPU = torch.device("cpu")


class Shell:
    """A pickle of this makes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


class Saves(nn.Module):
    """TorchScript that writes a file whenever it is run."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "written")
        return x


def rewritten(path: Path, into: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """The same zip file with some of its files changed."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(into, "w") as copy:
        for item in archive.infolist():
            name = item.filename.partition("/")[2]
            copy.writestr(item.filename, change(name, archive.read(item)))
    return into


def changed_json(path: Path, into: Path, part: str, change: Callable[[Any], None]) -> Path:
    """The same program with a change in one of its JSON files."""

    def edit(name: str, data: bytes) -> bytes:
        if not name.endswith(part):
            return data
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return rewritten(path, into, edit)


@pytest.fixture(scope="session")
def program(saved: Callable[..., Path]) -> Path:
    return saved(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.rand(2, 3))


def test_programs_and_torchscript_are_told_by_content(
    program: Path, scripted: Callable[[nn.Module], Path], tmp_path: Path
) -> None:
    script = scripted(nn.Linear(3, 2)).rename(tmp_path / "any.pth")
    assert (kind_of(program), kind_of(script)) == (FileKind.PROGRAM, FileKind.SCRIPT)


@pytest.mark.parametrize("is_old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("what", ["state dict", "checkpoint", "module", "code"])
def test_what_torch_save_writes_is_refused_and_never_unpickled(
    what: str, is_old: bool, tmp_path: Path
) -> None:
    module = nn.Linear(3, 2)
    content = {
        "state dict": module.state_dict(),
        "checkpoint": {"epoch": 3, "model": module.state_dict()},
        "module": module,
        "code": {"weights": torch.zeros(2), "more": Shell(tmp_path / "ran")},
    }[what]
    path = tmp_path / "model.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not is_old)
    with pytest.raises(ExportError) as refused:
        kind_of(path)
    said = {
        "state dict": "weights alone, a state dict, without the model",
        "checkpoint": "weights alone, a state dict, without the model",
        "module": "a pickled object (torch.nn.modules.linear.Linear",
        "code": "a pickled object (posix.mkdir)",
    }[what]
    assert ("before PyTorch 1.6" if is_old else said) in refused.value.message
    assert "torch.export.export(model.eval(), (x,), dynamic_shapes=" in str(refused.value.hint)
    assert 'torch.export.save(program, "model.pt2")' in str(refused.value.hint)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken", b"\x80\x02}."])
def test_another_file_is_no_pytorch_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(ExportError, match="is not a PyTorch model") as refused:
        kind_of(path)
    assert str(path) in refused.value.message
    assert "torch.export.save" in str(refused.value.hint)


def test_a_zip_file_of_something_else_and_a_compiled_package_are_refused(tmp_path: Path) -> None:
    for name, said in [
        ("readme.txt", "a zip file without a program"),
        ("data/aotinductor/m.so", "AOTInductor"),
    ]:
        path = tmp_path / "model.pt2"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"model/{name}", b"")
        with pytest.raises(ExportError, match=said):
            kind_of(path)


@pytest.mark.parametrize(
    ("manifest", "model"),
    [
        ('{"model": {"serializedFile": "best.pt"}}', "best.pt"),
        ('{"model": 5}', "the .pt file in it"),
        ("[" * 100_000, "the .pt file in it"),
    ],
)
def test_an_archive_of_torchserve_says_how_to_get_the_model_out(
    tmp_path: Path, manifest: str, model: str
) -> None:
    path = tmp_path / "m.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", manifest)
        archive.writestr("best.pt", b"")
    assert has_known_suffix(path)
    with pytest.raises(ExportError, match="is an archive of TorchServe") as caught:
        kind_of(path)
    assert f"(unzip m.mar) and export that: --weights {model}; " in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{top}/MODELS/MODEL.JSON", "two files named"),
        ("other/models/model.json", "not all in one folder"),
        ("serialized_exported_program.json", "not all in one folder"),
    ],
)
def test_a_file_that_torch_could_read_in_place_of_the_checked_one_is_refused(
    name: str, said: str, program: Path, tmp_path: Path
) -> None:
    """Torch runs the guards of `MODELS/MODEL.JSON`: it looks names up without regard to case."""
    path = rewritten(program, tmp_path / "evil.pt2", lambda _, data: data)
    with zipfile.ZipFile(path, "a") as archive:
        top, _, _ = archive.namelist()[0].partition("/")
        archive.writestr(name.format(top=top), b"{}")
    with pytest.raises(ExportError, match=said):
        opened(path, CPU)


@pytest.mark.parametrize("content", [b"{broken", b"[]", b"\xff\xfe\x80", b"[" * 100_000])
def test_a_damaged_program_is_refused_with_its_name(
    content: bytes, program: Path, tmp_path: Path
) -> None:
    path = rewritten(
        program,
        tmp_path / "damaged.pt2",
        lambda name, data: content if name == "models/model.json" else data,
    )
    with pytest.raises(ExportError, match="cannot load") as refused:
        opened(path, CPU)
    assert str(path) in refused.value.message


def test_every_file_of_models_is_checked_whatever_its_suffix(program: Path, tmp_path: Path) -> None:
    """Torch cuts five characters off the name and reads it as a program."""
    evil = changed_json(program, tmp_path / "evil.pt2", "models/model.json", _guard)
    path = tmp_path / "named.pt2"
    with zipfile.ZipFile(evil) as archive, zipfile.ZipFile(path, "w") as copy:
        for item in archive.infolist():
            copy.writestr(item.filename.replace("model.json", "model.text"), archive.read(item))
    with pytest.raises(ExportError, match="would run code when it is read"):
        opened(path, CPU)


def _guard(program: Any) -> None:
    program["guards_code"] = ["__import__('os').mkdir('ran')"]


def _size(program: Any) -> None:
    program["range_constraints"]["__import__('os').mkdir('ran')"] = {"min_val": 0, "max_val": 9}


def _attribute(program: Any) -> None:
    program["guards_code"] = ["L['x'].size().__class__.__base__.__subclasses__()"]


def _input_name(program: Any) -> None:
    program["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"] = "x=print('ran')"


@pytest.mark.parametrize("change", [_guard, _size, _attribute, _input_name])
def test_a_program_with_code_in_its_texts_is_refused(
    change: Callable[[Any], None], program: Path, tmp_path: Path
) -> None:
    path = changed_json(program, tmp_path / "evil.pt2", "models/model.json", change)
    with pytest.raises(ExportError, match="would run code when it is read: its ") as refused:
        opened(path, CPU)
    assert "--allow-pickle" in str(refused.value.hint)


def test_torch_itself_would_run_such_a_program(program: Path, tmp_path: Path) -> None:
    """If this fails, torch has become safe, and the check may go."""
    path = changed_json(program, tmp_path / "evil.pt2", "models/model.json", _guard)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        model = opened(path, CPU, allow_pickle=True)
        with pytest.raises(AssertionError):  # mkdir gives None, which is false
            model.call([torch.rand(2, 3)])
    assert (tmp_path / "ran").is_dir()


def test_a_pickled_constant_is_refused(program: Path, tmp_path: Path) -> None:
    def add(config: Any) -> None:
        config["config"]["thing"] = {
            "path_name": "opaque_obj_0",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }

    path = changed_json(program, tmp_path / "e.pt2", "model_constants_config.json", add)
    with pytest.raises(ExportError, match="thing is a pickled object"):
        opened(path, CPU)


def test_sample_inputs_that_are_not_tensors_are_not_unpickled(
    program: Path, tmp_path: Path
) -> None:
    torch.save(((Shell(tmp_path / "ran"),), {}), tmp_path / "inputs")
    evil = (tmp_path / "inputs").read_bytes()
    path = rewritten(
        program,
        tmp_path / "evil.pt2",
        lambda name, data: evil if name == "data/sample_inputs/model.pt" else data,
    )
    with pytest.raises(ExportError, match="cannot load"):
        opened(path, CPU)
    assert not (tmp_path / "ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_torchscript_that_opens_files_is_refused_unless_it_is_allowed(
    scripted: Callable[[nn.Module], Path],
) -> None:
    path = scripted(Saves())
    with pytest.raises(ExportError, match=r"can open files: it calls torch\.save") as refused:
        require_safe(path, kind_of(path), allow_pickle=False, allow_ops=False)
    assert "--allow-unsafe-ops" in str(refused.value.hint)
    require_safe(path, kind_of(path), allow_pickle=False, allow_ops=True)


def test_torchscript_that_opens_files_is_found_however_it_is_written(
    scripted: Callable[[nn.Module], Path], tmp_path: Path
) -> None:
    path = rewritten(
        scripted(Saves()),
        tmp_path / "odd.pt",
        lambda _, data: data.replace(b"torch.save(", b"torch . save ("),
    )
    with pytest.raises(ExportError, match="can open files"):
        require_safe(path, kind_of(path), allow_pickle=False, allow_ops=False)


@pytest.mark.parametrize(
    "target", ["torch.ops.aten.from_file.default", "torch._decomp.decompositions.aten.from_file"]
)
def test_a_program_that_opens_files_is_found_however_it_is_written(
    target: str, program: Path, tmp_path: Path
) -> None:
    def change(data: Any) -> None:
        data["graph_module"]["graph"]["nodes"][0]["target"] = target

    path = changed_json(program, tmp_path / "file.pt2", "models/model.json", change)
    escaped = rewritten(
        path,
        tmp_path / "escaped.pt2",
        lambda _, data: data.replace(b"from_file", b"from\\u005ffile"),
    )
    for each in (path, escaped):
        with pytest.raises(ExportError, match="can open files") as refused:
            opened(each, CPU)
        assert target in refused.value.message
        assert "--allow-unsafe-ops" in str(refused.value.hint)


def test_a_program_of_a_gpu_is_moved_to_the_cpu_and_gives_the_same_answer(
    program: Path, tmp_path: Path
) -> None:
    def to_cuda(data: Any) -> Any:
        is_device = data.keys() == {"type", "index"}
        return {"type": "cuda", "index": 0} if is_device else data

    cuda = rewritten(
        program,
        tmp_path / "cuda.pt2",
        lambda name, data: (
            json.dumps(json.loads(data, object_hook=to_cuda)).encode()
            if name.endswith(".json")
            else data
        ),
    )
    assert (is_for_cuda(cuda), is_for_cuda(program)) == (True, False)
    x = torch.rand(5, 3)
    (expected,) = opened(program, CPU).call([x])
    (found,) = opened(cuda, CPU).call([x])
    assert torch.equal(found, expected)
    moved_to_cpu(cuda, tmp_path / "moved.pt2")
    assert not is_for_cuda(tmp_path / "moved.pt2")
