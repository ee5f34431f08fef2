"""Conformance tests of exported image classifiers in this process: one table for all backends.

The classifier is that of `mlserve.testing.colours`, so every score is known.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.artifact import LABELS_NAME, MANIFEST_NAME, Artifact
from mlserve.backend import Backend, ImageStages, Runner
from mlserve.errors import InferenceFailed, InvalidInput, ModelLoadFailed
from mlserve.load_options import LoadOptions
from mlserve.sources import Classifier
from mlserve.tensors import DType, Signature, TensorSpec
from mlserve.testing.artifacts import exported
from mlserve.testing.colours import LABELS, expected_input, expected_scores
from mlserve.testing.given import GivenBackend
from mlserve.testing.images import (
    BAD,
    ODD,
    AnsweredImage,
    RefusedImage,
    decoded,
    noise,
    plain,
    saved,
)

Answer = dict[str, Any]
TOLERANCE = 1e-4
"""The allowed difference of scores, and of the model's input, from their definition."""


def strings(*values: bytes) -> Any:
    """Return the values as object[N], the form that a signature takes."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def ask(runner: Runner, *images: bytes, signature: str = "top_k") -> Answer:
    """Return the outputs of that signature for these images."""
    return dict(runner.run(signature, {"image": strings(*images)}))


class ConformsAsImageClassifier(GivenBackend):
    """Tests of an image classifier's signatures, answers and errors."""

    @pytest.fixture(scope="class")
    @classmethod
    def stages(cls, backend: Backend, artifact: Artifact) -> ImageStages:
        """Return the steps of the exported pipeline."""
        return backend.stages(artifact, LoadOptions())

    @pytest.fixture(scope="class")
    @classmethod
    def divided(cls) -> Classifier:
        """Return a classifier with scores m / m * m for the means m. To be overridden."""
        raise NotImplementedError("override the fixture divided")

    @pytest.fixture(params=list(ODD.values()), ids=list(ODD))
    def odd(self, request: pytest.FixtureRequest) -> AnsweredImage:
        """Return each unusual image that has an answer."""
        found: AnsweredImage = request.param
        return found

    @pytest.fixture(params=list(BAD.values()), ids=list(BAD))
    def bad(self, request: pytest.FixtureRequest) -> RefusedImage:
        """Return each file that is refused."""
        found: RefusedImage = request.param
        return found

    def test_its_signatures_are_those_of_every_backend(self, artifact: Artifact) -> None:
        images = (TensorSpec("image", DType.BYTES, (None,)),)
        label = (TensorSpec("output_0", DType.BYTES, (None,)),)
        k = len(LABELS)
        best = {
            TensorSpec("labels", DType.BYTES, (None, k)),
            TensorSpec("scores", DType.FLOAT32, (None, k)),
            TensorSpec("indices", DType.INT32, (None, k)),
        }
        assert artifact.manifest is not None
        found = {signature.name: signature for signature in artifact.manifest.signatures}
        assert set(found) == {"serving_default", "top_k", "ranking"}
        assert found["serving_default"] == Signature("serving_default", images, label)
        for name in ("top_k", "ranking"):
            assert found[name].inputs == images
            assert set(found[name].outputs) == best

    def test_the_ranking_has_all_classes_however_many_the_best_are(
        self, backend: Backend, classifier: Classifier, tmp_path: Path
    ) -> None:
        model = replace(classifier, pipeline=replace(classifier.pipeline, top_k=1))
        artifact = exported(backend.name, model, tmp_path / "m")
        assert artifact.manifest is not None
        shapes = {
            signature.name: {spec.shape for spec in signature.outputs}
            for signature in artifact.manifest.signatures
        }
        assert (shapes["top_k"], shapes["ranking"]) == ({(None, 1)}, {(None, len(LABELS))})
        loaded = backend.load(artifact, LoadOptions())
        files = [plain(colour) for colour in LABELS]
        ranking, best = ask(loaded, *files, signature="ranking"), ask(loaded, *files)
        assert (np.diff(ranking["scores"]) <= 0).all()
        for row, index in enumerate(ranking["indices"]):
            assert sorted(index) == list(range(len(LABELS)))
            assert ranking["labels"][row].tolist() == [LABELS[i].encode() for i in index]
        for name, array in best.items():
            np.testing.assert_array_equal(array, ranking[name][:, :1])
        loaded.close()

    def test_an_odd_image_gets_its_answer(self, runner: Runner, odd: AnsweredImage) -> None:
        answer = ask(runner, odd.data)
        scores = expected_scores(odd.pixels)[answer["indices"][0]]
        np.testing.assert_allclose(answer["scores"][0], scores, atol=TOLERANCE)
        assert (np.diff(answer["scores"][0]) <= 0).all()
        labels = [LABELS[index].encode() for index in answer["indices"][0]]
        assert answer["labels"][0].tolist() == labels
        assert ask(runner, odd.data, signature="serving_default")["output_0"] == labels[:1]

    def test_an_odd_image_is_decoded_to_the_same_pixels(
        self, stages: ImageStages, odd: AnsweredImage
    ) -> None:
        pixels = stages.decoded(odd.data)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, odd.pixels)

    @pytest.mark.parametrize(
        "size", [(64, 48), (9, 7), (3, 5), (1, 1), (500, 8), (8, 8), (2000, 1500)]
    )
    def test_the_models_input_is_the_defined_one(
        self, stages: ImageStages, size: tuple[int, int]
    ) -> None:
        data = saved(noise(*size))
        resized = stages.resized(data)
        assert resized.dtype == np.float32
        np.testing.assert_allclose(resized, expected_input(decoded(data)), atol=TOLERANCE)

    def test_the_scores_of_the_steps_are_those_of_the_answer(
        self, stages: ImageStages, runner: Runner
    ) -> None:
        data = saved(noise(90, 70))
        answer = ask(runner, data)
        scores = stages.scores(data)[answer["indices"][0]]
        np.testing.assert_allclose(answer["scores"][0], scores, atol=1e-6)

    def test_a_bad_image_gets_its_error_and_the_next_one_its_answer(
        self, runner: Runner, bad: RefusedImage
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            ask(runner, bad.data)
        _is_refusal(refused.value, bad, "the image is ")
        assert ask(runner, plain("blue"))["labels"][0, 0] == b"blue"

    def test_a_bad_image_in_a_batch_is_named_by_its_index(
        self, runner: Runner, bad: RefusedImage
    ) -> None:
        good = plain("green")
        with pytest.raises(InvalidInput) as refused:
            ask(runner, good, good, bad.data, good, bad.data, signature="serving_default")
        _is_refusal(refused.value, bad, "image 2 of 5 is ")

    def test_the_steps_refuse_a_bad_image_too(self, stages: ImageStages, bad: RefusedImage) -> None:
        with pytest.raises(InvalidInput) as refused:
            stages.decoded(bad.data)
        _is_refusal(refused.value, bad, "the image is ")

    def test_a_batch_of_unequal_sizes_equals_single_calls(self, runner: Runner) -> None:
        files = [
            saved(noise(40 * n, 90 - 10 * n, seed=n), "PNG" if n % 2 else "JPEG")
            for n in range(1, 8)
        ]
        together = ask(runner, *files)
        for row, file in enumerate(files):
            alone = ask(runner, file)
            np.testing.assert_array_equal(together["labels"][row], alone["labels"][0])
            np.testing.assert_array_equal(together["indices"][row], alone["indices"][0])
            np.testing.assert_allclose(together["scores"][row], alone["scores"][0], atol=1e-6)

    def test_an_empty_batch_gets_empty_outputs(self, runner: Runner) -> None:
        assert ask(runner, signature="serving_default")["output_0"].shape == (0,)
        shapes = {name: array.shape for name, array in ask(runner).items()}
        assert shapes == dict.fromkeys(("labels", "scores", "indices"), (0, len(LABELS)))

    def test_outputs_are_of_the_types_of_the_signature(self, runner: Runner) -> None:
        answer = ask(runner, plain("red"))
        assert (answer["scores"].dtype, answer["indices"].dtype) == (np.float32, np.int32)
        assert all(isinstance(label, bytes) for label in answer["labels"].flat)

    def test_it_answers_several_threads_at_once(self, runner: Runner) -> None:
        files = [saved(noise(60 + n, 40, seed=n)) for n in range(24)]
        alone = [ask(runner, file)["scores"] for file in files]
        with ThreadPoolExecutor(6) as threads:
            together = list(threads.map(lambda file: ask(runner, file)["scores"], files))
        np.testing.assert_allclose(together, alone, atol=1e-6)

    def test_scores_that_are_nan_are_no_answer_and_the_image_is_named(
        self, backend: Backend, divided: Classifier, tmp_path: Path
    ) -> None:
        """For pure red, the scores of green and blue are 0 / 0."""
        loaded = backend.load(exported(backend.name, divided, tmp_path / "m"), LoadOptions())
        grey, red = plain("grey", "PNG"), plain("red", "PNG")
        for signature in ("serving_default", "top_k"):
            for images, what in (
                ((red,), "the image"),
                ((grey, red, grey, red), "image 1 of 4"),
            ):
                with pytest.raises(InferenceFailed) as failed:
                    ask(loaded, *images, signature=signature)
                said = f"the model gives no answer for {what}: 2 of 3 scores are NaN"
                assert (type(failed.value), failed.value.message) == (InferenceFailed, said)
                assert failed.value.hint
            assert ask(loaded, grey, signature=signature)
        loaded.close()

    def test_a_background_class_is_not_a_label(
        self, backend: Backend, classifier: Classifier, tmp_path: Path
    ) -> None:
        """Three classes and two labels: class 0 is the background, which ties with blue here."""
        model = replace(
            classifier,
            labels=LABELS[1:],
            pipeline=replace(
                classifier.pipeline, class_offset=1, is_background_given=True, top_k=2
            ),
        )
        loaded = backend.load(exported(backend.name, model, tmp_path / "m"), LoadOptions())
        assert ask(loaded, plain("green", "PNG"))["labels"].tolist() == [[b"green", b"background"]]
        loaded.close()

    def test_a_background_class_that_was_a_guess_does_not_load(
        self, backend: Backend, classifier: Classifier, tmp_path: Path
    ) -> None:
        """Earlier versions of mlserve exported any model with one label too few like this."""
        pipeline = replace(classifier.pipeline, class_offset=1, is_background_given=True)
        model = replace(classifier, labels=LABELS[1:], pipeline=pipeline)
        old = exported(backend.name, model, tmp_path / "m")
        manifest = old.path / MANIFEST_NAME
        data = json.loads(manifest.read_text())
        del data["pipeline"]["is_background_given"]
        manifest.write_text(json.dumps(data))
        with pytest.raises(ModelLoadFailed, match="labels may be off by one") as failed:
            backend.load(Artifact.open(tmp_path / "m", old.model, 1), LoadOptions())
        assert "--background" in str(failed.value.hint)

    def test_changed_labels_do_not_load(
        self, backend: Backend, classifier: Classifier, tmp_path: Path
    ) -> None:
        changed = exported(backend.name, classifier, tmp_path / "m")
        (changed.path / LABELS_NAME).write_text("green\nred\nblue\n")
        with pytest.raises(ModelLoadFailed, match="was changed after the export"):
            backend.load(changed, LoadOptions())


def _is_refusal(error: InvalidInput, bad: RefusedImage, start: str) -> None:
    assert error.kind == bad.kind
    assert error.message.startswith(start)
    assert bad.part in error.message
    assert "\n" not in error.message
    assert error.hint
