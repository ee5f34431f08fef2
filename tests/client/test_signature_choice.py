"""Which signature is asked about an image: none of a model that is known to take other things."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlserve.client.answers import ModelMetadata
from mlserve.client.signature_choice import choose, choose_nameless
from mlserve.errors import UsageError
from mlserve.tensors import Signature, TensorSpec

SCORED = Signature(
    "serving_default",
    (TensorSpec.from_text("text:bytes[?]"),),
    (TensorSpec.from_text("y:float32[?,1]"),),
)
LABELLED = replace(SCORED, outputs=(TensorSpec.from_text("label:bytes[?]"),))
TENSORS = {"facts": {}, "columns": {}}
IMAGES = {"facts": {}, "pipeline": {}}


@pytest.mark.parametrize("contract", [None, IMAGES], ids=["unknown", "images"])
def test_a_string_may_be_an_image(contract: dict[str, Any] | None) -> None:
    for signature in (SCORED, LABELLED):
        assert choose(ModelMetadata("m", 1, (signature,), contract=contract)).best.input == "text"


def test_a_label_for_a_string_may_be_that_of_an_image() -> None:
    assert choose(ModelMetadata("m", 1, (LABELLED,), contract=TENSORS)).best.input == "text"


@pytest.mark.parametrize("choice", [choose, choose_nameless])
def test_an_image_is_not_sent_as_text_to_an_exported_model_of_tensors(choice: Any) -> None:
    with pytest.raises(UsageError, match=r"it takes serving_default\(text: bytes\[\?\]\)") as told:
        choice(ModelMetadata("m", 1, (SCORED,), contract=TENSORS))
    assert "for example: mlserve predict --input 'text=good morning';" in str(told.value.hint)
