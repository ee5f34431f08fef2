"""The published proof that backends give the same answer: writes docs/parity.md.

Exports efficientnet_lite0 for each into a folder of its own and compares them on the images of
parity_images.py. Exit code 0 when every image is inside the tolerance, else that of the command.

    python benchmarks/parity.py [--output docs/parity.md] [--no-pixels]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity_images import write_images

from mlserve.plugins import backend_names

MODEL = "efficientnet_lite0"
REFERENCE, STAGED = "tfserving", "onnxruntime"
FURTHER = ("openvino",)
"""Runtimes that are compared too where they are installed."""
TOLERANCE = 1e-4
PIXELS = (
    "--crop 0.875 --antialias --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
    "--resize direct --interpolation bicubic --antialias --mean 0.5 --std 0.5",
    "--resize direct:256x256 --interpolation nearest --scale 0..1",
    "--resize shortest-edge --interpolation bicubic --no-antialias --channels bgr --scale 0..255",
    "--resize letterbox --fill 114 --scale 0..1",
)
"""Options of `mlserve export` that change the pixels that the model gets."""
_STAGES = ("decoded", "resized", "scores")
_STEPS = (1e-6, 1e-5, TOLERANCE)
_WITHIN = ("0", "<1e-6", "<1e-5", "<1e-4")
_ISA = re.compile(r"<!-- isa: begin -->.*?<!-- isa: end -->\n", re.DOTALL)
"""What isa.py has written into the page."""
_MLSERVE = (sys.executable, "-m", "mlserve")
_HEAD = """# Parity

{verdict}

The model is `{model}` in fp32, exported for each runtime, on {count} images of every kind that is
taken. The tolerance is {tolerance:g}. For `{reference}` and `{other}` every stage is compared: the
decoded pixels, the resized and scaled tensor that the model gets, the scores of all classes, and
what the two servers answer.

`make parity` makes the images (`benchmarks/parity_images.py`), exports, compares with `mlserve
compare`, and writes this page; a test does the same and holds the two against each other.

## The report

`mlserve compare ... --report report.html` writes one HTML file that loads nothing from elsewhere.
It is readable from 420 pixels on, in light and dark, on paper, and with the keyboard.

![A report: the verdict, the findings, a row for each image](images/report.png)

It begins with what was found, in sentences, such as "Decoding agrees everywhere; the first
difference is in `resized`, in 12 of 12 images, by up to 1: onnxruntime@1 scales to 0..1,
onnxruntime@2 to -1..1." What stands before the colon was measured; what follows it stands in the
manifests of both exports. Where they say nothing different, the sentence says that: no cause is
guessed. What the manifests say differently of a stage is told too if no image shows it, as an EXIF
rule matters only to photos that are turned.

- **Images**: a row for each, changed labels first, then failures, then the largest difference; and
  the first stage that differs. The worst 20 have a thumbnail, as the first export decodes it, or a
  box that says `damaged`. Images without a difference above the tolerance are folded.
- **Stages**: the largest difference in each, and the score difference of each image.
- **Latency**: the share of the answers within a time, with p50, p95 and p99 marked. The scale
  widens towards the slowest answers. Fewer than 20 answers are a dot each. Times are on a
  logarithmic axis where the slowest took over ten times as long as the fastest.
- **Memory and start**: resident memory, and the time from the start of the process to the first
  answer, as bars.
- **How it was made**: each target, the machine, the versions, and the command that makes the report
  again, with what came from `mlserve.toml` and the environment.

Thumbnails need the extra `images`. For tables, the rows that differ and the outputs take the place
of images and stages. [`bench`](bench.md) and [`certify`](certificate.md) have `--report` too.

## Other CPUs

{isa}

On an arm64 CPU (wheels for aarch64 under qemu, two crops, run by hand), ONNX Runtime 1.20.1 gave
the scores of 1.32.0 on x86 within 1.2e-6 in fp32 and 0.0023 in int8, with the same labels. The
wheel of 1.32.0 crashes at import in qemu 7.2.

## Damaged files

`make fuzz` gives 10,000 damaged JPEG and PNG files, made from a seed, to both decoders: files cut,
chunks and segments dropped, swapped, altered and repeated, data that end early. With the seeds 0, 1
and 2, so on 30,000 files, both took 12,881 with equal pixels and both refused 17,011. They differed
on 108, all of one kind: a **progressive JPEG that lacks scans**. TensorFlow takes it, and its
libjpeg-turbo (2.1) smooths the blocks in another way than later ones do, so that pixels would
differ; `onnxruntime` refuses it as damaged. What TensorFlow refused, `onnxruntime` refused.

## Limits

An image that is over a limit (a side of more than 65,535 pixels, 100 million pixels, 50 scans, 16
packed texts, 640 MiB to decode) is refused by both with the same words. A test holds them against
each other, on files at each limit and beyond (`tests/fuzz/test_attacks.py`). One thing only
mlserve's own server and `onnxruntime` refuse, and a TensorFlow graph cannot count: a JPEG of more
than 4,096 segments.

{pixels}## Images

Each number is the largest absolute difference in the image; `0` is bit-equal.

<details>
<summary>All {count} images</summary>

| image | decoded | resized | scores | {answers} | label | same top-1 |
|---|---|---|---|{columns}---|---|
"""


_PIXELS = """## Other pixels

The same with options of `mlserve export` that change the pixels. The model was not trained for
them, so its labels mean nothing here; whether both backends give it the same input does. Each
number is the largest difference in all {count} images.

<details>
<summary>{options} sets of options</summary>

| options | decoded | resized | scores | end to end | same top-1 |
|---|---|---|---|---|---|
"""


def measure(images: Path, folder: Path, options: str = "") -> dict[str, Any]:
    """Run `mlserve compare --output json` on the exports, made with those options.

    `folder` holds their files.
    """
    env = {**os.environ, "MLSERVE_HOME": str(folder)}
    further = [name for name in FURTHER if not options and name in backend_names()]
    backends = (REFERENCE, STAGED, *further)
    for backend in backends:
        _run(env, "export", "--backend", backend, "--model", MODEL, *options.split())
    how = ("--runs", "1", "--tolerance", str(TOLERANCE), "--output", "json")
    found: dict[str, Any] = json.loads(
        _run(env, "compare", *backends, str(images), *how, codes=(0, 8))
    )
    return found


def page(found: Mapping[str, Any], pixels: Mapping[str, Mapping[str, Any]], isa: str) -> str:
    """Render the page: a comparison, those with other pixels by options, and isa.py's part."""
    others = [target["name"] for target in found["targets"][1:]]
    rows = [_row(image, others) for image in found["images"]]
    head = _HEAD.format(
        count=len(rows),
        model=MODEL,
        reference=REFERENCE,
        other=_plain(others[0]),
        tolerance=TOLERANCE,
        verdict="\n".join(_verdict(found, other) for other in others),
        isa=isa,
        answers=" | ".join(f"answers of {_plain(other)}" for other in others),
        columns="---|" * len(others),
        pixels=_pixels_table(pixels, len(rows)) if pixels else "",
    )
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows) + "\n</details>\n"


def _verdict(found: Mapping[str, Any], other: str) -> str:
    """Return the sentence about one runtime."""
    rows = [image["targets"][other] for image in found["images"]]
    agreeing = sum(row["disagreement"] is None for row in rows)
    largest = _rounded(max(row["score_difference"] or 0 for row in rows))
    within = f"no score differs by {TOLERANCE:g}"
    words = f"{within} (all {largest})" if largest in _WITHIN else f"a score differs by {largest}"
    return (
        f"- **{agreeing} of {len(rows)} images get the same label from `{_plain(other)}` as from "
        f"`{REFERENCE}`, and {words}.**"
    )


def _plain(target: str) -> str:
    """Return the backend of a target such as `onnxruntime@1`."""
    return target.partition("@")[0]


def _pixels_table(pixels: Mapping[str, Mapping[str, Any]], count: int) -> str:
    """Return the section with one row for each comparison."""
    rows = (f"| {' | '.join(_worst(*item))} |\n" for item in pixels.items())
    head = _PIXELS.format(count=count, options=len(pixels))
    return head + "".join(rows) + "\n</details>\n\n"


def _worst(options: str, found: Mapping[str, Any]) -> list[str]:
    """Return the largest difference of each kind, and how many labels agree."""
    other = found["targets"][1]["name"]
    rows = [image["targets"][other] for image in found["images"]]
    stages = [[row["stages"]["differences"][stage]["largest"] for row in rows] for stage in _STAGES]
    answers = [row["score_difference"] for row in rows]
    agreeing = sum(row["disagreement"] is None and row["stages"]["same_top_1"] for row in rows)
    worst = [_rounded(max(values)) for values in (*stages, answers)]
    return [f"`{options}`", *worst, f"{agreeing} of {len(rows)}"]


def _row(image: Mapping[str, Any], others: Sequence[str]) -> list[str]:
    targets = [image["targets"][other] for other in others]
    first = targets[0]
    differences = first["stages"]["differences"]
    is_same = first["stages"]["same_top_1"] and all(t["disagreement"] is None for t in targets)
    return [
        Path(image["file"]).name,
        *(_rounded(differences.get(stage, {}).get("largest")) for stage in _STAGES),
        *(_rounded(target["score_difference"]) for target in targets),
        first["label"] or first["refusal"],
        "yes" if is_same else "no",
    ]


def _rounded(value: float | None) -> str:
    """Give a difference as a power of ten above it: the last bits depend on the machine."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return next(
        (f"<{step:.0e}".replace("e-0", "e-") for step in _STEPS if value < step), f"{value:.2g}"
    )


def _run(env: Mapping[str, str], *args: str, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        [*_MLSERVE, *args], env=env, stdout=subprocess.PIPE, text=True, check=False, timeout=900
    )
    if done.returncode not in codes:
        raise SystemExit(done.returncode)
    return done.stdout


def main() -> None:
    """Measure, write the page, and fail if the two differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parents[1] / "docs" / "parity.md"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument(
        "--pixels",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare other pixels too (some minutes)",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlserve-parity-") as name:
        folder = Path(name)
        write_images(folder / "images")
        found = measure(folder / "images", folder / "home")
        pixels = {
            each: measure(folder / "images", folder / f"home-{number}", each)
            for number, each in enumerate(PIXELS if options.pixels else ())
        }
    kept = _ISA.search(default.read_text())
    options.output.write_text(page(found, pixels, kept[0] if kept else ""))
    comparisons = [found, *pixels.values()]
    for problem in [problem for each in comparisons for problem in each["problems"]]:
        print(f"{problem['image']}: {problem['what']}", file=sys.stderr)
    if not all(each["same"] for each in comparisons):
        raise SystemExit(8)
    print(f"{len(found['images'])} images agree: {options.output}")


if __name__ == "__main__":
    main()
