"""What is in the exported SavedModel, and which models are refused."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlserve_tfserving.backend import LEVEL_VARIABLE, TFServingBackend

from mlserve.artifact import Artifact
from mlserve.backend import Runner
from mlserve.errors import ExportError
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Activation
from mlserve.sources import Classifier
from mlserve.testing.images import plain

pytestmark = pytest.mark.tensorflow

MakeClassifier = Callable[..., Classifier]
Export = Callable[[Classifier, Path], Artifact]


def load(artifact: Artifact) -> Runner:
    return TFServingBackend().load(artifact, LoadOptions())


def top_k(runner: Runner, image: bytes) -> dict[str, Any]:
    return dict(runner.run("top_k", {"image": np.array([image], dtype=object)}))


def test_the_warm_up_file_is_read_by_the_official_messages(artifact: Artifact) -> None:
    import tensorflow as tf
    from mlserve_tfserving.warmup import PLACE
    from tensorflow_serving.apis import prediction_log_pb2

    records = tf.data.TFRecordDataset(str(artifact.path / PLACE))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in records]
    requests = [log.predict_log.request for log in logs]
    assert [(r.model_spec.name, r.model_spec.signature_name) for r in requests] == [
        ("colours", "serving_default"),
        ("colours", "top_k"),
        ("colours", "ranking"),
    ]
    for request in requests:
        (image,) = tf.make_ndarray(request.inputs["image"])
        assert tf.io.decode_jpeg(image).shape == (48, 64, 3)


def test_the_warm_up_file_is_read_by_the_runner(artifact: Artifact) -> None:
    from mlserve_tfserving.warmup import read_requests

    names = [(name, inputs["image"].shape) for name, inputs in read_requests(artifact.path)]
    assert names == [("serving_default", (1,)), ("top_k", (1,)), ("ranking", (1,))]


@pytest.mark.parametrize(
    "case",
    [(Activation.SIGMOID, 0.0, 0.5), (Activation.SIGMOID, 2.0, 0.880797),
     (Activation.COMPLEMENT, 0.25, 0.25), (Activation.COMPLEMENT, 1.0, 1.0)],
)  # fmt: skip
def test_a_model_of_one_output_has_two_classes(
    make_classifier: MakeClassifier,
    export_to: Export,
    tmp_path: Path,
    case: tuple[Activation, float, float],
) -> None:
    activation, output, second = case
    model = make_classifier(
        lambda pixels: pixels[:, 0, 0, :1] * 0 + output,
        ("ok", "defect"),
        activation=activation,
        classes=1,
    )
    answer = top_k(load(export_to(model, tmp_path)), plain("red"))
    scores = dict(zip(answer["labels"][0], answer["scores"][0], strict=True))
    np.testing.assert_allclose(scores[b"defect"], second, 1e-5)
    np.testing.assert_allclose(scores[b"ok"], 1 - second, 1e-5)
    assert answer["labels"][0][answer["indices"][0].tolist().index(1)] == b"defect"


def test_a_background_class_is_put_in_front(
    make_classifier: MakeClassifier, export_to: Export, tmp_path: Path
) -> None:
    model = make_classifier(
        labels=("green", "blue"), class_offset=1, is_background_given=True, top_k=2
    )
    answer = top_k(load(export_to(model, tmp_path)), plain("red"))
    assert answer["labels"][0].tolist() == [b"background", b"green"]
    assert answer["indices"][0].tolist() == [0, 1]


def test_probabilities_are_taken_as_they_are(
    make_classifier: MakeClassifier, export_to: Export, tmp_path: Path
) -> None:
    import tensorflow as tf

    model = make_classifier(
        lambda pixels: tf.constant([[0.1, 0.7, 0.2]]) + 0 * pixels[:, 0, 0, :],
        activation=Activation.IDENTITY,
    )
    answer = top_k(load(export_to(model, tmp_path)), plain("red"))
    np.testing.assert_allclose(answer["scores"], [[0.7, 0.2, 0.1]])


def test_scale_and_offset_reach_the_model(
    make_classifier: MakeClassifier, export_to: Export, tmp_path: Path
) -> None:
    model = make_classifier(scale=2 / 255, offset=-1.0, activation=Activation.IDENTITY)
    answer = top_k(load(export_to(model, tmp_path)), plain("red", "PNG"))
    np.testing.assert_allclose(answer["scores"], [[1, -1, -1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"classes": 4, "class_offset": 1, "is_background_given": True},
            "cannot (be put into a graph|export)",
        ),
        ({"labels": ("red", "green")}, "2 labels do not fit 3 classes"),
        ({"function": lambda pixels: pixels[:, :3, 0, 0] / 0.0 * 0.0}, "3 of 3 scores are NaN"),
        ({"function": lambda pixels: pixels}, "cannot be put into a graph"),
    ],
)
def test_a_model_that_does_not_fit_its_pipeline_is_refused(
    make_classifier: MakeClassifier, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        TFServingBackend().export(make_classifier(**change), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_oserror_that_the_store_explains(
    make_classifier: MakeClassifier, tmp_path: Path
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a tmpfs")
    try:
        with pytest.raises(OSError, match="No space left") as full:
            TFServingBackend().export(make_classifier(), folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert full.value.errno == errno.ENOSPC


_PREPARED = """
import sys
from mlserve_tfserving.backend import TFServingBackend
TFServingBackend().prepare("tensorflow")
assert "keras" not in sys.modules
import tensorflow.keras.optimizers
assert tensorflow.keras.optimizers.Adam()
"""


def test_tensorflow_starts_without_keras_and_without_a_word_on_the_terminal() -> None:
    environment = {k: v for k, v in os.environ.items() if k != LEVEL_VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", _PREPARED],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_plugin_is_light_to_import() -> None:
    code = (
        "import json, sys; from mlserve_tfserving.plugin import mlserve_backend as b;"
        "b()(); print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "numpy", "keras"} & set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[0.5, float("inf")]], "image 0: 1 of 2 scores are infinite"),
        ([[0, 1], [1, float("nan")], [0, float("inf")]], "image 1: 1 of 2 scores are NaN"),
    ],
)
def test_the_graph_names_the_image_whose_scores_are_not_finite(
    rows: list[list[float]], said: str
) -> None:
    import tensorflow as tf
    from mlserve_tfserving.graph import finite

    check = tf.function(lambda scores: finite(scores, 2), autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match=said):
        check(tf.constant(rows, tf.float32))
    good = tf.constant([[0.0, 1.0]])
    np.testing.assert_array_equal(check(good), good)
    assert check(tf.zeros([0, 2])).shape == (0, 2)
