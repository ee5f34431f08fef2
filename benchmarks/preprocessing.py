"""mlserve's pixels and scores against those of the libraries that models come from.

    python benchmarks/preprocessing.py [--model NAME]... [--output docs/image-pipeline.md]

Installs transformers, torchvision and timm into a folder of their own (`.preprocessing`), beside
mlserve's environment. Each model has seeded weights; it is exported for every backend that takes
it, with `--preprocessor`, and answers for the images of `make parity`, up to 2 megapixels. Its own
library prepares the same images and runs the model in its framework. Prints a table.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from parity_images import write_images
from PIL import Image
from preprocessing_models import MODELS, Model, sharpening

Array = np.ndarray[Any, Any]
Cases = Sequence[tuple[str, bytes, Image.Image]]
HERE = Path(__file__).parent
LIBRARIES = HERE / "preprocessing_libraries.txt"
FOLDER = Path(os.environ.get("MLSERVE_PREPROCESSING") or HERE.parent / ".preprocessing")
"""Where the libraries are; the variable lets several checkouts share them."""
_MOST_PIXELS = 2_000_000
_DECODED_OTHERWISE = ("real-grey-16-bit.png",)
"""Pillow makes each grey above 255 of 65,535 white; mlserve keeps the upper 8 bits."""
_SHARPENED_BY = 12
_BEGIN, _END = "<!-- benchmarks/preprocessing.py writes this table. -->\n", "<!-- end -->\n"
_OPTIONS = ("--no-deps", "--only-binary", ":all:", "--quiet")


def environment() -> dict[str, str]:
    """Install the libraries if they are not there; return the variables of a process with them."""
    folder = FOLDER / hashlib.sha256(LIBRARIES.read_bytes()).hexdigest()[:16]
    if not folder.exists():
        aside = folder.with_suffix(f".{os.getpid()}")
        pip = (sys.executable, "-m", "pip", "install", *_OPTIONS, "--target", aside)
        subprocess.run((*pip, "--requirement", LIBRARIES), check=True)
        aside.rename(folder)
    return {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}


def declare_operators() -> None:
    """Let torchvision's wheel import beside PyTorch for the CPU, whose build it does not fit.

    Its own operators (boxes and the like) do not load, and it only has to find their names.
    """
    import torch

    spec = importlib.util.find_spec("torchvision")
    (folder,) = spec.submodule_search_locations or () if spec else ()
    source = (Path(folder) / "_meta_registrations.py").read_text()
    names = re.findall(r'(?:register_meta\("|register_fake\("torchvision::)(\w+)"', source)
    library = torch.library.Library("torchvision", "DEF")
    for name in sorted(set(names)):
        library.define(f"{name}(Tensor a) -> Tensor")
    declared.append(library)


declared: list[Any] = []
"""A library forgets its operators when it is deleted."""


def images(folder: Path) -> Iterator[tuple[str, bytes, Image.Image]]:
    """Yield name, file and RGB image, as the data sets of all three libraries open it."""
    for path in sorted(folder.iterdir()):
        if path.name in _DECODED_OTHERWISE:
            continue
        with Image.open(path) as opened:
            if opened.width * opened.height <= _MOST_PIXELS:
                yield path.name, path.read_bytes(), opened.convert("RGB")


def compared(name: str, cases: Cases, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each backend that takes the model; `folder` is empty."""
    model = MODELS[name](folder)
    theirs = [model.pixels(image) for _, _, image in cases]
    gain, shift = sharpening(model, theirs[:: len(theirs) // _SHARPENED_BY])
    file = model.save(folder, gain, shift)
    scores = [_softmax((model.run(pixels[np.newaxis])[0] - shift) * gain) for pixels in theirs]
    rows = []
    for backend in model.backends:
        found = _served(backend, model, file, folder, [data for _, data, _ in cases])
        if isinstance(found, str):
            rows.append({"model": name, "backend": backend, "refused": found})
            continue
        names = [case for case, _, _ in cases]
        rows.append(
            {"model": name, "backend": backend, **_row(names, theirs, scores, *found)},
        )
    return rows


def _served(
    backend: str, model: Model, file: Path, folder: Path, files: Sequence[bytes]
) -> tuple[list[Array], list[Array]] | str:
    """Export the model; return the pixels and scores of mlserve, or why it is refused."""
    from mlserve import plugins
    from mlserve.errors import MlserveError
    from mlserve.export import export
    from mlserve.load_options import LoadOptions
    from mlserve.pixel_options import PixelOptions
    from mlserve.preprocessing import Channels
    from mlserve.sources import ModelRequest

    options = dict(model.options)
    pixels = PixelOptions(**options.pop("pixels", {}))
    if pixels.channels is not None:
        pixels = replace(pixels, channels=Channels(pixels.channels))
    request = ModelRequest("m", str(file), pixels=pixels, **options)
    try:
        artifact = export(request, backend, store=folder / "store")
        stages = plugins.backend(backend).stages(artifact, LoadOptions(threads=2))
    except MlserveError as error:
        return error.message
    return [stages.resized(data) for data in files], [stages.scores(data) for data in files]


def _row(
    names: Sequence[str],
    theirs: Sequence[Array],
    scores: Sequence[Array],
    our_pixels: Sequence[Array],
    our_scores: Sequence[Array],
) -> dict[str, Any]:
    pairs = list(zip(theirs, our_pixels, strict=True))
    equal = [bool(np.array_equal(a, b)) for a, b in pairs]
    return {
        "images": len(names),
        "equal": sum(equal),
        "pixels": max(float(np.abs(a - b).max()) for a, b in pairs),
        "unequal": {
            name: float(np.abs(a - b).max())
            for name, is_equal, (a, b) in zip(names, equal, pairs, strict=True)
            if not is_equal
        },
        "scores": max(float(np.abs(a - b).max()) for a, b in zip(scores, our_scores, strict=True)),
        "labels": sum(a.argmax() == b.argmax() for a, b in zip(scores, our_scores, strict=True)),
        "different": len({int(a.argmax()) for a in scores}),
    }


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Render the rows as Markdown."""
    lines = [
        "| model | backend | pixels bit-equal | pixels differ by | scores differ by | same label |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        place = f"| {row['model']} | `{row['backend']}` |"
        if "refused" in row:
            lines.append(f"{place} not exported: {_short(row['refused'])} | | | |")
            continue
        count = row["images"]
        lines.append(
            f"{place} {row['equal']} of {count} | {row['pixels']:.2g} | {row['scores']:.1g} "
            f"| {row['labels']} of {count} |"
        )
    return "\n".join(lines) + "\n"


def _short(reason: str) -> str:
    """Return an error without the folders of this run and the colours of a terminal."""
    plain = re.sub(r"\\x1b\[\d+m|in \S+/model\.\w+ ", "", reason)
    return plain.split(". ")[0].strip()


def main() -> None:
    """Compare the models, those of a framework in one process; print the table or write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--output", type=Path, help="the page whose table is replaced")
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = options.model or list(MODELS)
    with tempfile.TemporaryDirectory(prefix="mlserve-preprocessing-") as folder:
        if options.images:
            _print_rows(chosen, options.images, Path(folder))
            return
        write_images(Path(folder) / "images")
        keras = [name for name in chosen if _is_keras(name)]
        torch = [name for name in chosen if not _is_keras(name)]
        rows = [row for names in (torch, keras) if names for row in _asked(names, Path(folder))]
    print(table(rows))
    if options.output:
        page = options.output.read_text()
        before, after = page.split(_BEGIN)[0], page.split(_END)[-1]
        options.output.write_text(before + _BEGIN + "\n" + table(rows) + "\n" + _END + after)


def _print_rows(names: Sequence[str], given: Path, folder: Path) -> None:
    """Print each row as a line of JSON, in the process that has the libraries."""
    if not _is_keras(names[0]):
        declare_operators()
    cases = list(images(given))
    for number, name in enumerate(names):
        place = folder / str(number)
        place.mkdir()
        for row in compared(name, cases, place):
            print(json.dumps(row, default=int), flush=True)


def _is_keras(name: str) -> bool:
    return name.startswith("Keras")


def _asked(names: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of models of one framework, from a process that has the libraries."""
    chosen = [word for name in names for word in ("--model", name)]
    command = (sys.executable, __file__, *chosen, "--images", str(folder / "images"))
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("{"):
                print(line, end="", file=sys.stderr, flush=True)
                yield json.loads(line)
    if process.returncode:
        raise SystemExit(process.returncode)


if __name__ == "__main__":
    main()
