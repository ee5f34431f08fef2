"""The published proof that two backends give the same answer: writes docs/parity.md.

Exports efficientnet_lite0 for both into a folder of its own and compares them on the images of
parity_images.py. Exit code 0 when every image is inside the tolerance, else that of the command.

    python benchmarks/parity.py [--output docs/parity.md]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity_images import write_images

MODEL = "efficientnet_lite0"
BACKENDS = ("tfserving", "onnxruntime")
TOLERANCE = 1e-4
_STAGES = ("decoded", "resized", "scores")
_STEPS = (1e-6, 1e-5, TOLERANCE)
_MLSERVE = (sys.executable, "-m", "mlserve")
_HEAD = """# Parity

The same model, exported for two backends, on the same {count} images: `{model}`, fp32,
`{reference}` against `{other}`. Each number is the largest absolute difference in the image: of
the decoded pixels (0..255), of the resized and scaled tensor that the model gets, of the scores of
all classes, and of the scores that the two servers answer. `0` is bit-equal. The tolerance is
{tolerance:g}.

**{verdict}**

`python benchmarks/parity.py` makes the images (`benchmarks/parity_images.py`), exports, compares
with `mlserve compare`, and writes this file; a test does the same and holds the two against each
other.

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

## Images

| image | decoded | resized | scores | end to end | label | same top-1 |
|---|---|---|---|---|---|---|
"""


def measure(folder: Path) -> dict[str, Any]:
    """Run `mlserve compare --output json` on both exports; `folder` holds all files."""
    env = {**os.environ, "MLSERVE_HOME": str(folder / "home")}
    write_images(folder / "images")
    for backend in BACKENDS:
        _run(env, "export", "--backend", backend, "--model", MODEL)
    options = ("--runs", "1", "--tolerance", str(TOLERANCE), "--output", "json")
    found: dict[str, Any] = json.loads(
        _run(env, "compare", *BACKENDS, str(folder / "images"), *options, codes=(0, 8))
    )
    return found


def page(found: Mapping[str, Any]) -> str:
    """Render the Markdown page of a comparison."""
    other = found["targets"][1]["name"]
    rows = [_row(image, other) for image in found["images"]]
    agreeing = sum(row[-1] == "yes" for row in rows)
    differences = "every difference is" if found["same"] else "NOT every difference is"
    verdict = f"Same top-1 on {agreeing} of {len(rows)} images; {differences} inside the tolerance."
    head = _HEAD.format(
        count=len(rows),
        model=MODEL,
        reference=BACKENDS[0],
        other=BACKENDS[1],
        tolerance=TOLERANCE,
        verdict=verdict,
    )
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(image: Mapping[str, Any], other: str) -> list[str]:
    row = image["targets"][other]
    differences = row["stages"]["differences"]
    is_same = row["disagreement"] is None and row["stages"]["same_top_1"]
    return [
        Path(image["file"]).name,
        *(_rounded(differences.get(stage, {}).get("largest")) for stage in _STAGES),
        _rounded(row["score_difference"]),
        row["label"] or row["refusal"],
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
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory(prefix="mlserve-parity-") as folder:
        found = measure(Path(folder))
    output.write_text(page(found))
    for problem in found["problems"]:
        print(f"{problem['image']}: {problem['what']}", file=sys.stderr)
    if not found["same"]:
        raise SystemExit(8)
    print(f"{len(found['images'])} images agree: {output}")


if __name__ == "__main__":
    main()
