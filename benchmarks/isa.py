"""How far a model's scores move with the CPU: by instruction set and precision, in docs/parity.md.

Exports efficientnet_lite0 in each precision that the installed backends have, then runs each file
on the same crops of photos in processes of their own: as it is here, with oneDNN held to fewer
instructions (ONEDNN_MAX_CPU_ISA), and under qemu-user on an emulated CPU. The reference is
the fp32 file of `tfserving`, run here. Writes the section between two marks of the page.

    python benchmarks/isa.py [--qemu FOLDER] [--crops 32] [--emulated-crops 4] [--output FILE]

`--qemu` is the folder of `qemu-x86_64-static` (Debian: qemu-user-static).
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from isa_scores import DEFAULT_INT8
from PIL import Image
from sklearn.datasets import load_sample_images

from mlserve import plugins
from mlserve.backend import Quantization
from mlserve.errors import ExportError
from mlserve.image_pipeline.arithmetic import normalized
from mlserve.image_pipeline.steps import Array, activated
from mlserve.precision import Precision
from mlserve.sources import Classifier, ModelRequest

ROOT = Path(__file__).parents[1]
MODEL = "efficientnet_lite0"
BEGIN, END = "<!-- isa: begin -->\n", "<!-- isa: end -->\n"
_FILES = {"onnxruntime": "model.onnx", "openvino": "model.xml"}
_CAPPED = ("AVX2", "SSE41")
"""Values of ONEDNN_MAX_CPU_ISA."""
_EMULATED = {"AVX2": "Haswell", "SSE4.2": "Nehalem"}
"""CPUs of qemu, which have these instructions and no later ones."""
_CALIBRATION = 32


@dataclass(frozen=True)
class Cpu:
    """What a process runs on: its row in the table, its environment, and how it is started."""

    name: str
    env: Mapping[str, str]
    command: Sequence[str] = ()

    @property
    def is_emulated(self) -> bool:
        return bool(self.command)


def crops(count: int, seed: int, size: int = 224) -> Array:
    """Return uint8[count, size, size, 3]: seeded crops of three photos, some of them mirrored."""
    with Image.open(ROOT / "examples" / "horse.jpg") as horse:
        photos = [np.asarray(horse.convert("RGB")), *load_sample_images().images]
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        photo = photos[index % len(photos)]
        height, width = photo.shape[:2]
        side = int(rng.uniform(0.3, 1.0) * min(height, width))
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        part = Image.fromarray(photo[top : top + side, left : left + side])
        part = part.resize((size, size), Image.Resampling.BILINEAR)
        if rng.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        found.append(np.asarray(part))
    return np.stack(found)


def exported(model: Classifier, into: Path) -> Iterator[tuple[str, str, Path]]:
    """Export the model for each backend in each precision that it has here.

    Of TensorFlow it is the model alone: the image pipeline around it would decode and resize.
    """
    alone = into / "tensorflow"
    alone.mkdir()
    shape = (None, *model.pipeline.size, model.pipeline.preprocessing.depth)
    spec = tf.TensorSpec(shape, tf.float32)
    module = tf.Module()
    module.owner = model.forward
    module.pixels = tf.function(model.forward, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, str(alone))
    yield "tfserving", Precision.FP32.value, alone
    pixels = normalized(crops(_CALIBRATION, seed=1).astype(np.float32), model.pipeline)
    calibration = [{"images": image[np.newaxis]} for image in pixels]
    for name, file in _FILES.items():
        if name not in plugins.backend_names():
            continue
        backend = plugins.backend(name)
        backend.prepare(model.framework)
        for precision in backend.precisions:
            folder = into / f"{name}-{precision}"
            folder.mkdir()
            try:
                if precision is Precision.FP32:
                    backend.export(model, folder)
                else:
                    backend.export_at(model, folder, Quantization(precision, calibration))
            except ExportError as error:
                print(f"{name} {precision}: {error.message}", file=sys.stderr)
                continue
            yield name, precision.value, folder / file
            if (name, precision) == ("onnxruntime", Precision.INT8):
                yield name, DEFAULT_INT8, folder / file


def cpus(qemu: Path | None) -> Iterator[Cpu]:
    """Yield the CPU as it is, the caps, and what qemu emulates."""
    yield Cpu("as it is", {})
    for cap in _CAPPED:
        yield Cpu(f"ONEDNN_MAX_CPU_ISA={cap}", {"ONEDNN_MAX_CPU_ISA": cap})
    if qemu is not None:
        for name, cpu in _EMULATED.items():
            yield Cpu(f"{name} (qemu)", {}, (str(qemu / "qemu-x86_64-static"), "-cpu", cpu))


def scores_on(cpu: Cpu, runtime: str, precision: str, file: Path, pixels: Path) -> Array:
    """Return float32[N, units], made in a process there. Raises CalledProcessError."""
    made = pixels.with_name("scores.npy")
    script = Path(__file__).with_name("isa_scores.py")
    command = (sys.executable, script, runtime, precision, file, pixels, made)
    subprocess.run(
        [*cpu.command, *command], env={**os.environ, **cpu.env}, check=True, capture_output=True
    )
    scores: Array = np.load(made)
    made.unlink()
    return scores


def row(cpu: Cpu, runtime: str, precision: str, here: Array, reference: Array, found: Array) -> str:
    """Return a line of the table: against the reference, and against the same file here."""
    changed = int((found.argmax(1) != reference.argmax(1)).sum())
    moved = int((found.argmax(1) != here.argmax(1)).sum())
    cells = (
        *(runtime, precision, cpu.name),
        _largest(reference, found),
        f"{changed} of {len(found)}",
        _largest(here, found),
        f"{moved} of {len(found)}",
    )
    return f"| {' | '.join(cells)} |\n"


def _largest(expected: Array, found: Array) -> str:
    largest = float(np.abs(expected - found).max())
    return f"{largest:.1g}" if largest else "0"


_HEAD = """
{sentences}
`ONEDNN_MAX_CPU_ISA` holds TensorFlow, and OpenVINO's layers that are oneDNN's, to fewer
instructions. ONNX Runtime has kernels of its own and no such limit: only an emulated CPU shows what
it does elsewhere. "its defaults" is the int8 file in ONNX Runtime without the option that mlserve
sets (`session.x64quantprecision`).

Measured on {cpu} with {versions}. Of each row: the largest difference of a score of any class from
fp32 in TensorFlow here and the labels that change with it, then the same from what **this file**
answers on this CPU as it is. {crops} crops of photos; {emulated} on emulated CPUs, where
TensorFlow is left out: it takes minutes to start.

<details>
<summary>Scores by instruction set and precision</summary>

| runtime | precision | CPU | from TensorFlow fp32 | labels changed | from the same file here | labels changed |
|---|---|---|---|---|---|---|
"""  # noqa: E501


def sentence(name: str, moved: Mapping[str, tuple[float, int, int]], failed: Sequence[str]) -> str:
    """Return what was found of one file elsewhere: difference, labels, images of each CPU."""
    worst = max(moved, key=lambda cpu: moved[cpu])
    largest, labels, images = moved[worst]
    if largest:
        said = (
            f"the same file moves a score by {largest:.1g} at most, on {worst}, and changes "
            f"{labels} of {images} labels there"
        )
    else:
        said = "the same file gives the same bits"
    fails = f". It does not run with {' and '.join(failed)}" if failed else ""
    return f"- **{name}**: {said}{fails}.\n"


def section(
    sentences: Sequence[str], rows: Sequence[str], versions: str, crops: int, emulated: int
) -> str:
    """Return the Markdown between the marks."""
    said = "".join(sentences)
    head = _HEAD.format(
        sentences=said, cpu=_cpu_model(), versions=versions, crops=crops, emulated=emulated
    )
    return BEGIN + head + "".join(rows) + "\n</details>\n\n" + END


def _cpu_model() -> str:
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    flags = [flag for flag in known if re.search(rf"\b{flag}\b", text)]
    return f"{model[1] if model else platform.processor()} ({', '.join(flags)})"


def measured(qemu: Path | None, count: int, emulated: int) -> str:
    """Export, run everything, and return the section."""
    request = ModelRequest(MODEL)
    source = next(
        source
        for report in plugins.survey()
        for source in report.sources
        if source.accepts(request)
    )
    plugins.backend("tfserving").prepare(source.framework)
    model = source.open(request, lambda *_: None)
    if not isinstance(model, Classifier):
        raise SystemExit(f"{MODEL} is not a classifier")
    activation = model.pipeline.activation
    rows: list[str] = []
    sentences: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mlserve-isa-") as name:
        folder = Path(name)
        files = list(exported(model, folder))
        pixels = normalized(crops(count, seed=2).astype(np.float32), model.pipeline)
        np.save(folder / "all.npy", pixels)
        np.save(folder / "few.npy", pixels[:emulated])
        images = np.concatenate([model.forward(image[np.newaxis]) for image in pixels])
        reference = activated(images, activation)
        for runtime, precision, file in files:
            here: Array | None = None
            moved = {}
            failed: list[str] = []
            for cpu in cpus(qemu if runtime != "tfserving" else None):  # it takes minutes to start
                inputs = folder / ("few.npy" if cpu.is_emulated else "all.npy")
                try:
                    found = activated(scores_on(cpu, runtime, precision, file, inputs), activation)
                except subprocess.CalledProcessError as error:
                    failed.append(cpu.name)
                    print(
                        f"{runtime} {precision} {cpu.name}: exit {error.returncode}",
                        file=sys.stderr,
                    )
                    rows.append(f"| {runtime} | {precision} | {cpu.name} | does not run | | | |\n")
                    continue
                here = found if here is None else here
                part = len(found)
                labels = int((found.argmax(1) != here[:part].argmax(1)).sum())
                if found is not here:
                    moved[cpu.name] = float(np.abs(found - here[:part]).max()), labels, part
                rows.append(row(cpu, runtime, precision, here[:part], reference[:part], found))
                print(rows[-1], end="", flush=True)
            sentences.append(sentence(f"{runtime} {precision}", moved, failed))
    libraries = ("onnxruntime", "openvino", "tensorflow")
    return section(sentences, rows, _versions(libraries), count, emulated)


def _versions(names: Sequence[str]) -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    """Measure, and put the section into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--qemu", type=Path, help="the folder of qemu-x86_64-static")
    parser.add_argument("--crops", type=int, default=32)
    parser.add_argument("--emulated-crops", type=int, default=4)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "parity.md")
    options = parser.parse_args()
    made = measured(options.qemu, options.crops, options.emulated_crops)
    page = options.output.read_text()
    before, _, rest = page.partition(BEGIN)
    options.output.write_text(before + made + rest.partition(END)[2])


if __name__ == "__main__":
    main()
