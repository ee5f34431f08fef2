"""Tell PyTorch's files apart, and refuse those that would run code, before torch opens them.

Programs of `torch.export`, TorchScript and what `torch.save` writes are all zip files with one
folder in them. A program is JSON (`models/*.json`) beside raw weights; but torch's loader also
unpickles some parts, evaluates the expressions of sizes, and executes the checks on the inputs as
Python. Those texts are parsed here, and anything that is not arithmetic on sizes is refused.
"""

from __future__ import annotations

import ast
import json
import pickletools
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from mlserve.errors import ExportError, reason_of, shortened

MAKE_PT2 = (
    "where you have the model's code, make a program of it, with a batch x of two or more: "
    "`program = torch.export.export(model.eval(), (x,), dynamic_shapes=({0: "
    'torch.export.Dim.DYNAMIC},))`, then `torch.export.save(program, "model.pt2")`'
)
"""The two lines that make a `.pt2`."""
SUFFIXES = (".pt2", ".pt", ".pth", ".torchscript")
_MAR, _MAR_MANIFEST = ".mar", "MAR-INF/MANIFEST.json"
_LARGEST_MANIFEST = 2**20
_OLD_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The magic number that begins a file of `torch.save` before PyTorch 1.6, as it is pickled."""
_TENSORS = frozenset(
    (
        *(
            "collections OrderedDict",
            "torch Size",
            "torch device",
            "torch._tensor _rebuild_from_type_v2",
        ),
        *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
    )
)
"""The names that a pickle of tensors alone uses, beside torch's storages and dtypes."""


class FileKind(StrEnum):
    """The two kinds of file that hold a whole model."""

    PROGRAM = "a torch.export program"
    SCRIPT = "a TorchScript module"


def has_known_suffix(path: Path | None) -> bool:
    """Return whether a file's name is one that PyTorch models usually have, or TorchServe's."""
    return path is not None and path.suffix.lower() in (*SUFFIXES, _MAR) and not path.is_dir()


def kind_of(path: Path) -> FileKind:
    """Return what the file holds. Raises ExportError for anything but a whole model."""
    try:
        with zipfile.ZipFile(path) as archive:
            if _MAR_MANIFEST in archive.namelist():
                raise _mar(path, archive)
            names = _names(archive)
            kind = _kind_by(names)
            if kind is None:
                raise _no_model(path, archive, names)
            _require_unambiguous(path, archive)
            return kind
    except (OSError, zipfile.BadZipFile) as error:
        raise _not_a_zip(path, error) from error


def _mar(path: Path, archive: zipfile.ZipFile) -> ExportError:
    """Return the error for an archive of `torch-model-archiver`, which names the model in it."""
    try:
        with archive.open(_MAR_MANIFEST) as file:
            manifest = json.loads(file.read(_LARGEST_MANIFEST))
        model = shortened(str(manifest["model"]["serializedFile"]))
    except (ValueError, LookupError, TypeError, RuntimeError, RecursionError):
        model = "the .pt file in it"
    return ExportError(
        f"{shortened(str(path))} is an archive of TorchServe: a model, and a handler that is code",
        hint=f"take the model out of it (unzip {path.name}) and export that: --weights {model}; "
        "what the handler did to the input is said with options of the export",
    )


def _kind_by(names: dict[str, str]) -> FileKind | None:
    if any(name.startswith("models/") for name in names):
        return FileKind.PROGRAM
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return FileKind.SCRIPT
    return None


def _require_unambiguous(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise ExportError where torch could read another file than the one that is checked here.

    Torch looks a name up in the folder of the first file, in any case; and where it cannot read a
    program, it tries the format of PyTorch 2.7, whose files lie in no folder.
    """
    names = archive.namelist()
    if len({name.partition("/")[0] for name in names}) > 1:
        raise _not_pytorch(path, "its files are not all in one folder")
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise _not_pytorch(path, f"it has two files named {shortened(name)}")
        seen.add(name.lower())


def require_safe(path: Path, kind: FileKind, *, allow_pickle: bool, allow_ops: bool) -> None:
    """Raise ExportError for a file that would run code or open files, unless that is allowed."""
    if allow_pickle and allow_ops:
        return
    with zipfile.ZipFile(path) as archive:
        names = _names(archive)
        texts = {name: json.loads(archive.read(names[name])) for name in filter(_is_json, names)}
        found = [] if allow_pickle or kind is FileKind.SCRIPT else list(_code_in(names, texts))
        files = [] if allow_ops else list(_file_access(archive, names, texts))
    if found:
        raise ExportError(
            f"{path} would run code when it is read: {found[0]}",
            hint="save it again with torch.export.save; or, only if you trust whoever made it, "
            "give --allow-pickle",
        )
    if files:
        raise ExportError(
            f"{path} can open files: it calls {files[0]}",
            hint="only if you trust whoever made it, give --allow-unsafe-ops",
        )


def is_for_cuda(path: Path) -> bool:
    """Return whether a program has tensors that lie on a CUDA device."""
    found = []

    def note(data: dict[str, Any]) -> dict[str, Any]:
        found.append(_is_cuda(data))
        return data

    with zipfile.ZipFile(path) as archive:
        for name, whole in _names(archive).items():
            data = archive.read(whole) if _is_json(name) else b""
            if b'"cuda"' in data:  # most programs have none, and parsing a large one takes seconds
                json.loads(data, object_hook=note)
    return any(found)


def moved_to_cpu(path: Path, into: Any) -> None:
    """Write a program that lies on CUDA devices into the binary file `into`, as one for the CPU.

    Torch cannot read such a file on a machine without CUDA. The sample inputs are left out: nothing
    needs them, and torch would look for their device.
    """
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(into, "w") as copy:
        for item in archive.infolist():
            name = _inner_name(item.filename)
            data = archive.read(item)
            if name.startswith("data/sample_inputs/"):
                data = b""
            elif _is_json(name):
                data = json.dumps(json.loads(data, object_hook=_on_cpu)).encode()
            copy.writestr(item.filename, data)


def _is_cuda(data: dict[str, Any]) -> bool:
    return data.keys() == {"type", "index"} and data["type"] == "cuda"


def _on_cpu(data: dict[str, Any]) -> dict[str, Any]:
    return {"type": "cpu", "index": None} if _is_cuda(data) else data


def _names(archive: zipfile.ZipFile) -> dict[str, str]:
    """Map the names of the files in their folder to their whole names."""
    return {_inner_name(name): name for name in archive.namelist()}


def _inner_name(name: str) -> str:
    """Return a file's name without the folder, in lower case: torch ignores case."""
    return name.partition("/")[2].lower()


def _is_json(name: str) -> bool:
    """Return whether torch reads a file as JSON: all of `models/`, whatever they are called."""
    return name.startswith("models/") or name.endswith(".json")


def _no_model(path: Path, archive: zipfile.ZipFile, names: dict[str, str]) -> ExportError:
    if "data.pkl" in names:
        classes = _classes_in(archive.read(names["data.pkl"]))
        what = f"a pickled object ({', '.join(classes[:3])})" if classes else "weights alone"
        why = "which runs code when it is read" if classes else "a state dict, without the model"
        return ExportError(f"{path} holds {what}, {why}", hint=MAKE_PT2)
    if any(name.startswith("data/aotinductor/") for name in names):
        return ExportError(
            f"{path} holds a model that AOTInductor has compiled for one kind of machine",
            hint="save the program itself: torch.export.save(program, FILE.pt2)",
        )
    if any(name.endswith("serialized_exported_program.json") for name in archive.namelist()):
        return ExportError(
            f"{path} is a program in the format of PyTorch 2.7 and before",
            hint="load it with that version, and save it with a later one: torch.export.save",
        )
    return _not_pytorch(path, "a zip file without a program or a TorchScript module")


def _not_a_zip(path: Path, error: Exception) -> ExportError:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as unreadable:
        return ExportError(f"{path} cannot be read: {unreadable.strerror or unreadable}")
    if _OLD_MAGIC in start:
        return ExportError(
            f"{path} holds weights or a pickled object, in the format of torch.save before "
            "PyTorch 1.6",
            hint=MAKE_PT2,
        )
    return _not_pytorch(path, reason_of(error))


def _not_pytorch(path: Path, why: str) -> ExportError:
    return ExportError(
        f"{path} is not a PyTorch model: {why}",
        hint="give a .pt2 file of torch.export.save or a TorchScript file of torch.jit.save",
    )


def _classes_in(pickled: bytes) -> list[str]:
    """Return what a pickle names besides tensors, without running it; [] for a state dict."""
    found = []
    try:
        for code, argument, _ in pickletools.genops(pickled):
            if code.name in ("GLOBAL", "INST") and not _is_of_tensors(str(argument)):
                found.append(str(argument).replace(" ", "."))
            elif code.name == "STACK_GLOBAL":
                found.append("names that torch.save does not write")
    except ValueError:
        return ["it is damaged"]
    return list(dict.fromkeys(shortened(name) for name in found))


def _is_of_tensors(name: str) -> bool:
    return name in _TENSORS or re.fullmatch(r"torch(\.storage)? \w+(Storage|\d+)", name) is not None


def _code_in(names: Iterable[str], texts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of a program torch would unpickle, evaluate or execute, and is not arithmetic.

    `texts` are its JSON files, parsed.
    """
    for name in names:
        if name.startswith("data/aotinductor/"):
            yield f"{name} is compiled code"
    for name, data in texts.items():
        if name.startswith("models/"):
            yield from _expressions(data)
        elif name.startswith(("data/weights/", "data/constants/")):
            yield from _pickles(data)


def _pickles(config: Any) -> Iterator[str]:
    for name, payload in config.get("config", {}).items():
        if str(payload.get("path_name")).startswith(("custom_obj", "opaque_obj")):
            yield f"{shortened(name)} is a pickled object"


def _expressions(program: Any) -> Iterator[str]:
    texts = [*program.get("guards_code", ()), *program.get("range_constraints", ())]
    texts += _values(program, "expr_str")
    yield from (f"its expression {shortened(text)!r}" for text in texts if not _is_arithmetic(text))
    names = _values(program.get("graph_module"), "name")
    yield from (f"its name {shortened(name)!r}" for name in names if not _NAME.fullmatch(name))


_NAME = re.compile(r"[\w.]*")


def _values(data: Any, key: str) -> Iterator[str]:
    """Yield the texts of that key, at any depth of the JSON."""
    if isinstance(data, dict):
        if isinstance(data.get(key), str):
            yield data[key]
        for item in data.values():
            yield from _values(item, key)
    elif isinstance(data, list):
        for item in data:
            yield from _values(item, key)


_ARITHMETIC = (
    *(ast.Expression, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator),
    *(
        ast.Compare,
        ast.cmpop,
        ast.expr_context,
        ast.Constant,
        ast.Tuple,
        ast.Subscript,
        ast.keyword,
    ),
)
_METHODS = frozenset(("size", "stride", "storage_offset", "dim", "isnan", "inf"))
_FUNCTION = re.compile(r"[A-Z]\w*|min|max|abs")
"""Functions of sizes: `Mod`, `FloorDiv`, `Max`."""


def _is_arithmetic(text: str) -> bool:
    """Return whether an expression does no more than arithmetic on the sizes of inputs."""
    try:
        return all(map(_is_harmless, ast.walk(ast.parse(text.strip(), mode="eval"))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_harmless(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=str(text)):
            return text.isidentifier()
        case ast.Attribute(attr=name):
            return name in _METHODS
        case ast.Call(func=ast.Name(id=name), args=args):
            takes_text = any(isinstance(getattr(arg, "value", None), str) for arg in args)
            return name == "Symbol" or (bool(_FUNCTION.fullmatch(name)) and not takes_text)
        case ast.Call(func=function):
            return isinstance(function, ast.Attribute)
        case ast.Name(id=name):
            return not name.startswith("_")
    return isinstance(node, _ARITHMETIC)


_FILE_OPERATIONS = frozenset(("from_file", "save"))
_GAP = rb"(?:\s|\\|#[^\n]*\n)*"
"""What may stand between the words of TorchScript."""
_FILE_CALL = re.compile(rb"\b(?:torch|aten)" + _GAP + rb"\." + _GAP + rb"(?:from_file|save)\b")


def _file_access(
    archive: zipfile.ZipFile, names: Mapping[str, str], texts: Mapping[str, Any]
) -> Iterator[str]:
    """Yield the operations that open files, in a program's JSON or the code of TorchScript."""
    for name, whole in names.items():
        if name.startswith("models/"):
            targets = _values(texts[name], "target")
            yield from (each for each in targets if _FILE_OPERATIONS.intersection(each.split(".")))
        elif name.startswith("code/") and name.endswith(".py"):
            for found in _FILE_CALL.finditer(archive.read(whole)):
                yield shortened(found[0].decode(errors="replace"))
