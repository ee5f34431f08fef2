"""The torch backend on a GPU: one script, each part on its own, one JSON report on stdout.

Inception v3 of torchvision with seeded weights, and a JPEG of about 55 kB. Targets on an H200: a
request through the server takes at most 1.5 ms more than the same work in process, and 64 clients
get at least 0.7 of the rate that batches of 32 have in process. A part that fails is reported with
its error, and the next one runs.

    python benchmarks/gpu.py [--device cuda] [--quick] [--only PART ...] [--report FILE]

`--device cpu --quick` tries the script itself, on a small network if torchvision does not import.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_bench import MODEL, Bench, network, numbered, photo, photo_bytes, strings
from gpu_serving import CLIENTS, PROCESSES_OF_SERVER, SERVING, shape
from mlserve_torch.device import set_up
from mlserve_torch.graphs import CudaCapture
from mlserve_torch.program import Program
from mlserve_torch.resizing import Resizing
from mlserve_torch.runner import load_runner
from torch import nn

from mlserve import export, plugins
from mlserve.errors import MlserveError
from mlserve.image_pipeline.float_resizing import resized
from mlserve.load_options import JpegChoice, LoadOptions
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.sources import Kind, ModelRequest
from mlserve.tensors import DType, TensorSpec

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def machine(bench: Bench) -> dict[str, Any]:
    """Versions and the device."""
    found: dict[str, Any] = {"python": sys.version.split()[0], "torch": torch.__version__}
    found["cpus"] = len(os.sched_getaffinity(0))
    if bench.is_gpu:
        found["gpu"] = torch.cuda.get_device_name(bench.device)
        found["gpu_bytes"] = torch.cuda.get_device_properties(bench.device).total_memory
    try:
        import torchvision

        found["torchvision"] = torchvision.__version__
    except (ImportError, RuntimeError) as error:
        found["torchvision"] = f"does not import: {error}"
    return found


def in_process(bench: Bench) -> dict[str, Any]:
    """The network alone, as it is served (without TF32): eager and as a CUDA graph."""
    set_up()
    found: dict[str, Any] = {}
    model = network(bench).to(bench.device)
    for name, dtype in DTYPES.items():
        if not bench.is_gpu and dtype is not torch.float32:
            continue
        for rows in (1, 32):
            x = torch.rand(rows, 3, bench.size, bench.size, device=bench.device).to(dtype)
            found[f"{name}_batch{rows}"] = _eager_and_graph(bench, model.to(dtype), x)
    if bench.is_gpu:
        torch.backends.cudnn.allow_tf32 = True
        found["tf32_batch32"] = _eager_and_graph(bench, model.float(), x.float())
        torch.backends.cudnn.allow_tf32 = False
    found["network"] = bench.found["network"]
    return found


def _eager_and_graph(bench: Bench, model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    with torch.inference_mode():
        found: dict[str, Any] = {"eager_ms": bench.milliseconds(lambda: model(x))}
        if not bench.is_gpu:
            return found
        capture = CudaCapture(torch.device(bench.device))
        expected = model(x).float()
        bench.synchronize()
        replay = capture.capture(lambda tensors: [model(tensors[0])], [x])

        def play() -> None:
            with capture.on_stream():
                replay.play()
            capture.wait()

        play()
        found["differs"] = (replay.outputs[0].float() - expected).abs().max().item()
        found["graph_ms"] = bench.milliseconds(play)
    return found | {"graph_per_s": round(len(x) / found["graph_ms"] * 1000)}


def exporting(bench: Bench) -> dict[str, Any]:
    """`torch.export` and `mlserve export`, in seconds."""
    model, labels = network(bench), tuple(f"class {index}" for index in range(bench.classes))
    x = torch.rand(2, 3, bench.size, bench.size)
    started = time.perf_counter()
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (x,), dynamic_shapes=sizes)
    torch.export.save(program, bench.folder / "model.pt2")
    saved = time.perf_counter()
    request = ModelRequest(
        MODEL, str(bench.folder / "model.pt2"), labels=labels, scale=(0, 1), activation="softmax"
    )
    artifact = export.export(request, "torch", store=bench.folder / "store")
    bench.found["artifact"] = artifact
    return {
        "torch_export_s": round(saved - started, 1),
        "mlserve_export_s": round(time.perf_counter() - saved, 1),
        "bytes": (artifact.path / "model.pt2").stat().st_size,
    }


def answers(bench: Bench) -> dict[str, Any]:
    """Whether an image has the same scores alone, in every batch size, and on the CPU."""
    runner = load_runner(bench.artifact(), bench.artifact().path / "model.pt2", _options(bench))
    images = [photo(size) for size in (64_000, 40_000, 20_000, 10_000)] * 8
    alone = [_ranking(runner, [image])[0] for image in images[:4]] * 8
    found: dict[str, Any] = {"batching": str(getattr(runner, "batching", None))}
    for rows in (2, 3, 5, 8, 17, 32):
        together = _ranking(runner, images[:rows])
        found[f"batch{rows}_differs"] = float(np.abs(together - np.stack(alone[:rows])).max())
    found["top_score"] = float(np.stack(alone[:4]).max())
    runner.close()
    found["resize_differs"] = _resize_differs(bench)
    cpu = load_runner(
        bench.artifact(), bench.artifact().path / "model.pt2", LoadOptions(device="cpu")
    )
    on_cpu = _ranking(cpu, images[:4])
    found["cpu_differs"] = float(np.abs(on_cpu - np.stack(alone[:4])).max())
    found["same_label_as_cpu"] = bool((on_cpu.argmax(1) == np.stack(alone[:4]).argmax(1)).all())
    cpu.close()
    return found


def _resize_differs(bench: Bench) -> int:
    """How many values of the device's resize do not have the bits of the CPU's."""
    shape = ImagePipeline(bench.size, bench.size, 1 / 127.5, -1.0, Activation.IDENTITY, classes=3)
    resizing = Resizing(shape, torch.device(bench.device))
    spec = TensorSpec("pixels", DType.FLOAT32, (None, bench.size, bench.size, 3))
    program = resizing.before(Program(list, (spec,), (spec,), (1, 32)))
    rng = np.random.default_rng(0)
    sizes = [(480, 640), (3, 5), (299, 299), (300, 1000), (2000, 1500), (600, 598)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    expected = np.stack([resized(image, bench.size, bench.size) for image in images])
    expected *= np.float32(shape.scale)
    expected += np.float32(shape.offset)
    prepared = [resizing.prepare(image) for image in images]
    (pixels,) = program.call(resizing.inputs(prepared, range(len(prepared))))
    found = pixels.cpu().numpy()
    return int((found.view(np.uint32) != expected.view(np.uint32)).sum())


def _options(bench: Bench, **options: Any) -> LoadOptions:
    return LoadOptions(device=bench.device, **options)


def _ranking(runner: Any, images: list[bytes]) -> Any:
    """float32[N, classes]: the scores by class."""
    answer = runner.run("ranking", {"image": strings(images)})
    scores = np.empty_like(answer["scores"])
    np.put_along_axis(scores, answer["indices"].astype(np.int64), answer["scores"], axis=1)
    return scores


def pipeline(bench: Bench) -> dict[str, Any]:
    """The whole work in process, as the server does it: decode, resize, model, labels."""
    found: dict[str, Any] = {"jpeg_bytes": len(photo_bytes)}
    pixels = {}
    for choice in _decoders(bench):
        steps = plugins.backend("torch").stages(
            bench.artifact(), _options(bench, jpeg_decoder=choice)
        )
        found |= _pipeline_of(bench, choice, steps)
        pixels[choice] = steps.decoded(photo_bytes).astype(int)
    if JpegChoice.GPU in pixels:
        far = np.abs(pixels[JpegChoice.GPU] - pixels[JpegChoice.ACCURATE])
        found["gpu_pixels_differ"] = {"most": int(far.max()), "mean": float(far.mean())}
    return found


def _decoders(bench: Bench) -> tuple[JpegChoice, ...]:
    return tuple(JpegChoice) if bench.is_gpu else (JpegChoice.ACCURATE,)


def _pipeline_of(bench: Bench, choice: JpegChoice, steps: Any) -> dict[str, Any]:
    options = _options(bench, jpeg_decoder=choice)
    runner: Any = load_runner(bench.artifact(), bench.artifact().path / "model.pt2", options)
    one, many = strings([photo_bytes]), _different(32)
    calls = max(3, bench.calls // 4)
    took = bench.milliseconds(lambda: runner.run("top_k", {"image": many}), calls)
    found = {
        "batch1_ms": bench.milliseconds(lambda: runner.run("top_k", {"image": one})),
        "batch32_ms": took,
        "batch32_per_s": round(32 / took * 1000),
        "batch32_2_callers_per_s": _two_callers(bench, runner, many),
        "decode_ms": bench.milliseconds(lambda: steps.decoded(photo_bytes)),
        "decode_resize_ms": bench.milliseconds(lambda: steps.resized(photo_bytes)),
    }
    runner.close()
    return {f"{choice}_{name}": value for name, value in found.items()}


def _two_callers(bench: Bench, runner: Any, images: Any) -> int:
    """Images a second if two threads ask: one decodes while the model runs for the other."""
    until = time.monotonic() + (0.5 if bench.quick else 2.0)

    def ask(_: int) -> int:
        calls = 0
        while time.monotonic() < until:
            runner.run("top_k", {"image": images})
            calls += 1
        return calls * len(images)

    started = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        asked = sum(threads.map(ask, range(2)))
    return round(asked / (time.monotonic() - started))


def _different(count: int) -> Any:
    return strings([numbered(photo_bytes, index) for index in range(count)])


class Square(nn.Module):
    """Needs memory that grows with the square of the rows; ids are looked up in a small table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = self.table(ids)
        return (rows @ rows.T).sum(1)


def device_errors(bench: Bench) -> dict[str, Any]:
    """What a user meets: no such device, no memory, bad ids; and that the next answer comes."""
    path = bench.folder / "square.pt2"
    ids = torch.zeros(2, dtype=torch.long)
    model = Square().to(bench.device)
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (ids.to(bench.device),), dynamic_shapes=sizes)
    torch.export.save(program, path)
    request = ModelRequest("square", str(path), kind=Kind.TENSORS)
    artifact = export.export(request, "torch", store=bench.folder / "store")
    backend = plugins.backend("torch")
    found: dict[str, Any] = {"exported": f"a program saved on {bench.device}"}
    found["absent_device"] = _error(lambda: backend.load(artifact, LoadOptions(device="cuda:77")))
    on_cpu: Any = backend.load(artifact, LoadOptions(device="cpu"))
    runner: Any = backend.load(artifact, _options(bench))
    few = np.arange(5)
    expected = on_cpu.run("serving_default", {"ids": few})["output_0"]

    def differs() -> float:
        answer = runner.run("serving_default", {"ids": few})["output_0"]
        return float(np.abs(answer - expected).max())

    found["differs_from_cpu"] = differs()
    bad = np.array([1, 10])
    found["bad_id"] = _error(lambda: runner.run("serving_default", {"ids": bad}))
    if bench.is_gpu:
        many = np.zeros(400_000, np.int64)  # 640 GB
        found["no_memory"] = _error(lambda: runner.run("serving_default", {"ids": many}))
        found["differs_after_it"] = differs()
    return found


def _error(call: Callable[[], object]) -> str:
    try:
        call()
    except MlserveError as error:
        return f"{type(error).__name__}: {error.message} | hint: {error.hint}"
    return "NO ERROR"


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """The targets: milliseconds more than in process, and the share of the in-process rate."""
    seconds = sum(part.get("took_s", 0) for part in report.values())
    found: dict[str, Any] = {"took_s": round(seconds, 1)}
    same = report.get("answers", {})
    for name in ("resize_differs", "cpu_differs", "same_label_as_cpu", "batch32_differs"):
        found[name] = same.get(name)
    found["failed"] = {name: part["error"] for name, part in report.items() if "error" in part}
    whole, alone = (report.get(name, {}) for name in ("pipeline", "in_process"))
    served = {name: value for part in SERVING for name, value in report.get(part, {}).items()}
    shapes = [shape(processes) for processes in PROCESSES_OF_SERVER]
    for choice in (*JpegChoice, *shapes):
        decoder = JpegChoice.ACCURATE if choice in shapes else choice
        one = whole.get(f"{decoder}_batch1_ms")
        for protocol in ("grpc", "rest"):
            through = served.get(f"{choice}_{protocol}_1_client_ms")
            if one and through:
                found[f"{choice}_{protocol}_ms_more"] = round(through["p50"] - one, 3)
        many = served.get(f"{choice}_grpc_{CLIENTS}_clients")
        if many:
            for name in ("per_s", "p50_ms", "p99_ms", "errors"):
                found[f"{choice}_{CLIENTS}_clients_{name}"] = many[name]
        rate, graph = whole.get(f"{decoder}_batch32_per_s"), alone.get("fp32_batch32", {})
        if many and rate:
            found[f"{choice}_share_of_pipeline_batch32"] = round(many["per_s"] / rate, 3)
        if many and "graph_per_s" in graph:
            found[f"{choice}_share_of_model_batch32"] = round(
                many["per_s"] / graph["graph_per_s"], 3
            )
    return found


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "machine": machine,
    "in_process": in_process,
    "export": exporting,
    "answers": answers,
    "pipeline": pipeline,
    **SERVING,
    "device_errors": device_errors,
}


@contextmanager
def noted(name: str, report: dict[str, Any]) -> Iterator[None]:
    """Note how long a part took, and the error it ends with."""
    started = time.perf_counter()
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the other parts run all the same
        report[name] = {"error": repr(error), "at": traceback.format_exc(limit=-4)}
    report[name]["took_s"] = round(time.perf_counter() - started, 1)
    print(f"{name}: {report[name]['took_s']} s", file=sys.stderr, flush=True)


def main() -> None:
    """Run the parts and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="few calls, to try the script")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--report", type=Path, help="also write the report to this file")
    options = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="mlserve-gpu-") as folder:
        os.environ["MLSERVE_HOME"] = folder
        bench = Bench(options.device, options.quick, Path(folder))
        for name in options.only:
            with noted(name, report):
                report[name] = PARTS[name](bench)
            text = json.dumps({"summary": summary(report), **report}, indent=1, default=str)
            if options.report:  # what there is, should the rest not end in time
                options.report.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
