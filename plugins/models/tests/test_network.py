"""Labels, sizes and digests: what is checked before and after a framework has opened a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlserve_models.names import imagenet_labels, random_digest
from mlserve_models.sizes import image_size

from mlserve.classifiers import Network, classifier
from mlserve.contract import RAW, UNIT, Contract, Evidence, settle
from mlserve.digests import path_digest
from mlserve.errors import ExportError, UsageError
from mlserve.pipeline import Activation
from mlserve.sources import How, ModelRequest


def _network(units: int, activation: Activation = Activation.SOFTMAX) -> Network:
    contract = Contract(units, activation, (-1.0, 1.0))
    return Network(None, (8, 8), contract, "test", "sha256:0")


def test_imagenet_labels_are_the_first_names_in_the_usual_order() -> None:
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert (labels[0], labels[339], labels[999]) == ("tench", "sorrel", "toilet tissue")


def test_the_scale_is_recorded_as_factor_and_offset() -> None:
    made = classifier(ModelRequest("m"), _network(2), ("a", "b"))
    assert (made.pipeline.scale, made.pipeline.offset) == (2 / 255, -1.0)


def test_what_the_user_gives_wins_and_what_was_found_speaks_up() -> None:
    found, logits = Evidence(UNIT, "it says so"), Evidence(Activation.SOFTMAX, "it ends in Dense")
    request = ModelRequest("m", scale=(0.0, 255.0), activation="none")
    contract = settle(request, 2, logits, found)
    assert (contract.scale, contract.activation) == (RAW, Activation.IDENTITY)
    assert contract.facts["scale"].how is contract.facts["activation"].how is How.GIVEN
    assert "the model takes 0..1: it says so" in contract.facts["scale"].warning
    assert "--activation softmax was expected" in contract.facts["activation"].warning


def test_what_neither_the_user_nor_the_model_says_is_asked_for() -> None:
    logits = Evidence(Activation.SOFTMAX, "it ends in Dense")
    with pytest.raises(ExportError, match="nobody knows"):
        settle(ModelRequest("m"), 2, logits, ExportError("nobody knows"))
    assert settle(ModelRequest("m", scale=UNIT), 2, logits, ExportError("?")).scale == UNIT


@pytest.mark.parametrize(("word", "units"), [("sigmoid", 2), ("softmax", 1)])
def test_an_activation_that_does_not_fit_the_outputs_is_refused(word: str, units: int) -> None:
    with pytest.raises(UsageError, match=f"--activation {word} does not fit a model with"):
        settle(ModelRequest("m", activation=word), units, ExportError("?"), Evidence(UNIT, ""))


def test_imagenets_1001_classes_have_a_background_class_by_themselves() -> None:
    made = classifier(ModelRequest("m"), _network(1001), ("x",) * 1000).pipeline
    assert (made.class_offset, made.is_background_given) == (1, False)


def test_a_background_class_is_an_offset_of_one_when_the_user_says_so() -> None:
    asked = ModelRequest("m", has_background=True)
    made = classifier(asked, _network(3), ("a", "b"))
    assert (made.pipeline.class_offset, made.pipeline.is_background_given) == (1, True)
    assert made.pipeline.full_labels(made.labels) == ("background", "a", "b")


def test_one_label_too_few_is_an_error_that_names_both_numbers_and_the_flag() -> None:
    with pytest.raises(ExportError, match="3 classes and there are 2 labels") as caught:
        classifier(ModelRequest("m"), _network(3), ("no defect", "defect"))
    assert "--background" in str(caught.value.hint)


def test_a_first_label_background_is_that_of_class_0() -> None:
    made = classifier(ModelRequest("m"), _network(3), ("background", "a", "b"))
    assert made.pipeline.full_labels(made.labels) == ("background", "a", "b")


@pytest.mark.parametrize(
    ("units", "labels", "hint"),
    [
        (3, ("a", "b", "c"), "leave --background out"),
        (3, ("a",), "--background needs 2 labels"),
        (1000, ("x",) * 1000, "leave --background out"),
    ],
)
def test_a_background_class_that_does_not_fit_is_an_error(
    units: int, labels: tuple[str, ...], hint: str
) -> None:
    with pytest.raises(ExportError, match=f"{units} classes and there are {len(labels)}") as caught:
        classifier(ModelRequest("m", has_background=True), _network(units), labels)
    assert hint in str(caught.value.hint)


def test_a_label_background_too_many_is_named() -> None:
    with pytest.raises(ExportError, match="2 classes and there are 3 labels") as caught:
        classifier(ModelRequest("m"), _network(2), ("Background", "a", "b"))
    assert "without the first, 'Background'" in str(caught.value.hint)


def test_top_k_is_no_more_than_there_are_scores() -> None:
    binary = _network(1, Activation.COMPLEMENT)
    assert classifier(ModelRequest("m", top_k=5), binary, ("a", "b")).pipeline.top_k == 2


def test_missing_labels_are_asked_for_by_number() -> None:
    with pytest.raises(ExportError, match="has 3 classes and no labels") as caught:
        classifier(ModelRequest("m"), _network(3))
    assert "--labels FILE: 3 lines" in str(caught.value.hint)


@pytest.mark.parametrize("count", [1, 5])
def test_labels_that_do_not_fit_are_an_error(count: int) -> None:
    with pytest.raises(ExportError, match=f"3 classes and there are {count} labels"):
        classifier(ModelRequest("m"), _network(3), ("x",) * count)


@pytest.mark.parametrize("count", [1, 3])
def test_a_binary_model_needs_both_labels(count: int) -> None:
    with pytest.raises(ExportError, match=f"two classes and there are {count} labels"):
        classifier(ModelRequest("m"), _network(1, Activation.SIGMOID), ("x",) * count)


def test_the_input_size_comes_from_the_model_or_from_the_user() -> None:
    assert image_size((None, 8, 9, 3), ModelRequest("m")) == (8, 9, 3)
    assert image_size((None, None, None, 1), ModelRequest("m", input_size=5)) == (5, 5, 1)
    assert image_size((None, 8, None, 3), ModelRequest("m", input_size=8)) == (8, 8, 3)


@pytest.mark.parametrize(
    ("shape", "input_size", "message"),
    [
        (None, None, r"the shape \[\.\.\.\]"),
        ((None, 8), None, r"the shape \[\?,8\]"),
        ((1, 8, 8, 3), None, "batches of 1 only"),
        ((None, 3, 8, 8), None, "has 8 channels in its last dimension"),
        ((None, 8, 8, None), None, "no fixed number of channels"),
        ((None, 8, None, 3), None, "leaves its input size open"),
        ((None, 8, 9, 3), 8, "--input-size 8 does not fit"),
    ],
)
def test_an_input_that_is_no_image_batch_is_an_error(
    shape: tuple[int | None, ...] | None, input_size: int | None, message: str
) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        image_size(shape, ModelRequest("m", input_size=input_size))
    assert caught.value.hint


def test_the_digest_of_a_folder_depends_on_names_and_bytes(tmp_path: Path) -> None:
    digests = set()
    for name, data in (("a", b"1"), ("b", b"1"), ("b", b"2")):
        folder = tmp_path / f"{name}{data.decode()}"
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / name).write_bytes(data)
        digests.add(path_digest(folder))
        assert path_digest(folder) == path_digest(folder)
    assert len(digests) == 3


def test_the_digest_of_random_weights_depends_on_the_seed() -> None:
    assert random_digest("m", 1) == random_digest("m", 1) != random_digest("m", 2)
