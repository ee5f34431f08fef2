"""Asking servers of other makers: other signatures, other names, and models without images."""

from __future__ import annotations

from typing import Any

import pytest

from mlserve.client import Client
from mlserve.errors import InferenceFailed, NotFound, UsageError
from mlserve.tensors import DType, Signature, TensorSpec
from tests.harness.foreign import Refusal
from tests.harness.foreign_tfs import TfsModel

pytestmark = pytest.mark.server


def _signature(name: str, input_name: str, dtype: DType, *sizes: int | None) -> Signature:
    output = TensorSpec("out", DType.BYTES, (None,))
    return Signature(name, (TensorSpec(input_name, dtype, sizes),), (output,))


TEXT_IN = _signature("serving_default", "encoded", DType.BYTES, None)
PIXELS_IN = _signature("serving_default", "input_1", DType.FLOAT32, None, 299, 299, 3)


def test_the_default_signature_is_found_and_remembered(serve: Any) -> None:
    model = TfsModel((TEXT_IN,), {"serving_default": {"out": ["ox"]}})
    with Client(serve(model), model="stranger") as client:
        first, second = client.predict(b"1", timeout=20), client.predict(b"2", timeout=20)

    assert (first.label, first.scores, second.label) == ("ox", (), "ox")
    assert model.asked == ["top_k", "serving_default", "serving_default"]
    assert model.metadata_calls == 1


@pytest.mark.parametrize("top_k", [3, 30])
def test_a_label_without_scores_is_short_of_what_was_asked_for(serve: Any, top_k: int) -> None:
    model = TfsModel((TEXT_IN,), {"serving_default": {"out": ["ox"]}})
    with Client(serve(model), model="stranger") as client:
        found = client.predict(b"1", timeout=20, top_k=top_k)
        assert client.predict(b"1", timeout=20).shortfall is None

    assert (found.label, found.scores) == ("ox", ())
    assert found.shortfall == "the server gives a label without scores"
    assert (model.asked[1:], model.metadata_calls) == (["serving_default"] * 2, 1)


def test_a_ranking_that_goes_with_its_version_is_looked_for_again(serve: Any) -> None:
    """A server went back to a version that was exported before there was a ranking."""
    image = (TensorSpec("image", DType.BYTES, (None,)),)
    row = {"labels": ["ox", "impala"] * 4, "scores": [0.5, 0.25, 0.125, 0.0625] * 2}
    answers = {
        name: {key: [values[:size]] for key, values in row.items()}
        for name, size in (("top_k", 2), ("ranking", 8))
    }
    old, new = (
        Signature(
            name,
            image,
            (
                TensorSpec("labels", DType.BYTES, (None, size)),
                TensorSpec("scores", DType.FLOAT32, (None, size)),
            ),
        )
        for name, size in (("top_k", 2), ("ranking", 8))
    )
    model = TfsModel((old, new), answers)
    with Client(serve(model), model="stranger") as client:
        assert len(client.predict(b"1", timeout=20, top_k=7).scores) == 7
        model.signatures = (old,)
        found = client.predict(b"1", timeout=20, top_k=7)

    assert len(found.scores) == 2
    assert "only its best 2" in str(found.shortfall)
    assert model.asked == ["ranking", "ranking", "top_k"]


def test_another_input_name_of_the_same_signature(serve: Any) -> None:
    scored = {"labels": [["ox", "impala"]], "scores": [[0.25, 0.75]]}
    signature = Signature(
        "top_k",
        (TensorSpec("jpeg", DType.BYTES, (None,)),),
        (
            TensorSpec("labels", DType.BYTES, (None, 2)),
            TensorSpec("scores", DType.FLOAT32, (None, 2)),
        ),
    )
    model = TfsModel((TEXT_IN, signature), {"top_k": scored})
    with Client(serve(model), model="stranger") as client:
        found = client.predict(b"1", timeout=20)

    assert found.label == "impala"
    assert [(row.label, row.score, row.index) for row in found.scores] == [
        ("impala", 0.75, None),
        ("ox", 0.25, None),
    ]


@pytest.mark.parametrize("sizes", [(), (None,), (1, None)])
def test_the_only_signature_in_any_shape_of_one_string(
    serve: Any, sizes: tuple[int | None, ...]
) -> None:
    signature = _signature("classify_file", "data", DType.BYTES, *sizes)
    model = TfsModel((PIXELS_IN, signature), {"classify_file": {"out": ["ox"]}})
    with Client(serve(model), model="stranger") as client:
        assert client.predict(b"1", timeout=20).label == "ox"


def test_a_model_of_pixels_says_what_it_takes(serve: Any) -> None:
    with (
        Client(serve(TfsModel((PIXELS_IN,))), model="stranger") as client,
        pytest.raises(UsageError) as caught,
    ):
        client.predict(b"1", timeout=20)

    assert caught.value.message == (
        "the model stranger does not take image files; "
        "it takes serving_default(input_1: float32[?,299,299,3])"
    )
    hint = str(caught.value.hint)
    assert "for example: mlserve predict --input input_1=@input_1.npy; image files are for" in hint


def _of_method(method: str, output: str) -> Signature:
    takes = (TensorSpec("inputs", DType.BYTES, (None,)),)
    gives = (TensorSpec(output, DType.FLOAT32, (None, 1)),)
    return Signature(method, takes, gives, method=method)


def test_a_model_of_examples_says_which_calls_it_wants(serve: Any) -> None:
    model = TfsModel((_of_method("classify", "scores"), _of_method("regress", "outputs")))
    with (
        Client(serve(model), model="stranger") as client,
        pytest.raises(UsageError) as caught,
    ):
        client.predict(b"1", timeout=20)

    assert caught.value.message == (
        "the model stranger does not take image files; it takes classify(inputs: bytes[?]) by "
        "Classify, as tf.Examples; regress(inputs: bytes[?]) by Regress, as tf.Examples"
    )
    assert "for :classify and :regress over REST" in str(caught.value.hint)
    assert model.asked == ["top_k"]


def test_a_signature_of_examples_beside_others_is_no_place_for_an_image(serve: Any) -> None:
    with (
        Client(
            serve(TfsModel((PIXELS_IN, _of_method("classify", "scores")))), model="stranger"
        ) as client,
        pytest.raises(UsageError, match=r"classify\(inputs: bytes\[\?\]\) by Classify"),
    ):
        client.predict(b"1", timeout=20)


def test_inputs_with_defaults_are_left_out(serve: Any) -> None:
    inputs = (TensorSpec("size", DType.INT32, ()), *TEXT_IN.inputs)
    signature = Signature("serving_default", inputs, TEXT_IN.outputs, frozenset({"size"}))
    model = TfsModel((signature,), {"serving_default": {"out": ["ox"]}})
    with Client(serve(model), model="stranger") as client:
        assert client.predict(b"1", timeout=20).label == "ox"


def test_several_signatures_without_a_default(serve: Any) -> None:
    model = TfsModel(tuple(_signature(name, "x", DType.BYTES, None) for name in "ab"))
    with (
        Client(serve(model), model="stranger") as client,
        pytest.raises(UsageError, match=r"several signatures that take one string \(a, b\)"),
    ):
        client.predict(b"1", timeout=20)


@pytest.mark.parametrize(
    "outputs",
    [
        {"out": ["a", "b"]},
        {"out": [0.5]},
        {"labels": [["a", "b"]], "scores": [[0.5]]},
        {"labels": [["a"]], "scores": [[float("nan")]]},
        {"labels": [[0.5]], "scores": [["a"]]},
        {"one": ["a"], "two": ["b"]},
    ],
)
def test_outputs_that_are_no_labels(serve: Any, outputs: dict[str, object]) -> None:
    model = TfsModel((TEXT_IN,), {"serving_default": outputs})
    with (
        Client(serve(model), model="stranger") as client,
        pytest.raises(InferenceFailed, match=r"outputs are not labels.*\(outputs: "),
    ):
        client.predict(b"1", timeout=20)


def test_an_unknown_model_hints_at_the_name(serve: Any) -> None:
    endpoint = serve(TfsModel((TEXT_IN,)))
    with Client(endpoint, model="inception_v3") as client, pytest.raises(NotFound) as caught:
        client.predict(b"1", timeout=20)

    assert "Servable not found for request: Latest(inception_v3)" in caught.value.message
    assert "model=NAME" in str(caught.value.hint)


def test_tensorflow_serving_does_not_tell_its_models(serve: Any) -> None:
    with Client(serve(TfsModel((TEXT_IN,)))) as client, pytest.raises(UsageError) as caught:
        client.predict(b"1", timeout=20)

    assert caught.match("does not list the models it serves")
    assert "model=NAME" in str(caught.value.hint)


def test_metadata_leaves_out_initializers(serve: Any) -> None:
    with Client(serve(TfsModel((PIXELS_IN,))), model="stranger") as client:
        found = client.metadata(timeout=20)

    assert (found.model, found.version) == ("stranger", 7)
    assert found.signatures == (PIXELS_IN,)


def test_random_weights_are_told(cli: Any, serve: Any, photo: Any) -> None:
    headers = {"mlserve-random-weights": "1", "x-mlserve-random-weights": "1"}
    answers = {"serving_default": {"out": ["ox"]}}
    endpoint = serve(TfsModel((TEXT_IN,), answers, headers=headers))
    options = ["--endpoint", endpoint, "--model", "stranger", "--timeout", "20"]
    outcome = cli("predict", photo, photo, *options)
    data = cli("predict", photo, *options, "--output", "json")

    assert outcome.stdout == f"{photo}\tox\n" * 2
    assert outcome.stderr.startswith("warning: the model has random weights, its answers mean noth")
    assert outcome.stderr.count("warning") == 1
    assert data.json()["has_random_weights"] is True
    assert "warning" in data.stderr


def test_status_of_a_version_that_is_not_available(cli: Any, serve: Any) -> None:
    endpoint = serve(TfsModel((), state="END", error="no such file:\n saved_model.pb"))
    outcome = cli("status", "--endpoint", endpoint, "--model", "stranger", "--timeout", 20)

    assert outcome.stdout.splitlines()[1].split(maxsplit=2) == [
        "7",
        "END",
        "no such file: saved_model.pb",
    ]
    assert outcome.returncode == 5
    assert "load" not in outcome.stdout  # another maker's server does not tell it
    assert f"error: no version of stranger is available at {endpoint}" in outcome.stderr
    assert "see why with mlserve logs" in outcome.stderr


def test_status_of_a_version_that_is_still_being_loaded(cli: Any, serve: Any) -> None:
    """Others may be available meanwhile, so the error is about the one that was asked for."""
    endpoint = serve(TfsModel((), state="LOADING"))
    call = ("status", "--endpoint", endpoint, "--model", "stranger", "--timeout", 20)
    outcome = cli(*call, "--version", 7)

    assert outcome.returncode == 5
    assert f"error: version 7 of stranger is not available at {endpoint}" in outcome.stderr
    assert "hint: it is still being loaded" in outcome.stderr


@pytest.mark.parametrize(
    ("code", "http", "text", "exit_code", "words"),
    [
        ("INVALID_ARGUMENT", 400, "bad pixels", 2, "refused the request: bad pixels"),
        ("NOT_FOUND", 404, "no version 3", 2, "does not have what was asked for: no version 3"),
        ("UNIMPLEMENTED", 501, "never heard", 2, "does not allow the request: never heard"),
        ("PERMISSION_DENIED", 403, "go away", 2, "denied access: go away"),
        ("UNAUTHENTICATED", 401, "who?", 2, "denied access: who?"),
        ("UNAVAILABLE", 503, "draining", 5, "is not ready: draining"),
        ("INTERNAL", 500, "out of luck", 6, "failed: out of luck"),
        ("UNKNOWN", 500, "", 6, "failed: "),
        ("RESOURCE_EXHAUSTED", 429, "queue full", 7, "has no room for the request: queue full"),
        ("DEADLINE_EXCEEDED", 504, "Timed out waiting", 124, "gave up "),
        (
            "RESOURCE_EXHAUSTED",
            429,
            "Run() timeout exceeded while waiting in batching queue",
            124,
            "gave up ",
        ),
    ],
)
def test_each_error_of_a_server_has_its_exit_code(
    cli: Any,
    serve: Any,
    photo: Any,
    code: str,
    http: int,
    text: str,
    exit_code: int,
    words: str,
) -> None:
    headers = {"retry-after": "2"}
    met = Refusal(code, text, http=http, headers=headers)
    endpoint = serve(TfsModel((TEXT_IN,), refusal=met))
    options = ["--endpoint", endpoint, "--model", "stranger", "--timeout", "20"]
    outcome = cli("predict", photo, *options, "--max-attempts", "1")

    error, hint = outcome.stderr.splitlines()
    assert error.startswith(f"error: the server at {endpoint} {words}")
    assert hint.startswith("hint: ")
    assert ("try again in 2 s" in hint) == (exit_code == 7)
    assert (outcome.returncode, outcome.stdout) == (exit_code, "")


SERVED_BY = "OpenVINO 2026.4.1; int8; CPU; certificate="


def _served_by(state: str) -> dict[str, str]:
    return dict.fromkeys(("mlserve-served-by", "x-mlserve-served-by"), SERVED_BY + state)


def test_what_served_an_answer_is_told(cli: Any, serve: Any, photo: Any) -> None:
    answers = {"serving_default": {"out": ["ox"]}}
    endpoint = serve(TfsModel((TEXT_IN,), answers, headers=_served_by("holds")))
    options = ["--endpoint", endpoint, "--model", "stranger", "--timeout", "20"]
    with Client(endpoint, model="stranger") as client:
        assert client.predict(b"1", timeout=20).served_by == SERVED_BY + "holds"
        assert client.infer({"encoded": ["a"]}, timeout=20).served_by == SERVED_BY + "holds"
        assert client.metadata(timeout=20).served_by == SERVED_BY + "holds"
    found = cli("predict", photo, *options, "--output", "json")
    assert (found.json()["served_by"], found.stderr) == (SERVED_BY + "holds", "")
    assert f"runs on  {SERVED_BY}holds\n" in cli("metadata", *options).stdout
    told = cli("predict", "--input", "encoded=a", *options, "--output", "json")
    assert told.json()["served_by"] == SERVED_BY + "holds"


def test_a_server_that_has_drifted_is_warned_of_once(cli: Any, serve: Any, photo: Any) -> None:
    answers = {"serving_default": {"out": ["ox"]}}
    endpoint = serve(TfsModel((TEXT_IN,), answers, headers=_served_by("drifted")))
    outcome = cli("predict", photo, photo, "--endpoint", endpoint, "--model", "stranger")
    assert outcome.stdout == f"{photo}\tox\n" * 2
    assert outcome.stderr.startswith("warning: the model does not give the answers here that it")
    assert outcome.stderr.count("warning") == 1


def _rung(text: str) -> dict[str, str]:
    return dict.fromkeys(("mlserve-rung", "x-mlserve-rung"), text)


def test_an_uncertain_answer_of_a_ladder_says_so(cli: Any, serve: Any, photo: Any) -> None:
    answers = {"serving_default": {"out": ["ox"]}}
    endpoint = serve(TfsModel((TEXT_IN,), answers, headers=_rung("int8;uncertain")))
    options = ["--endpoint", endpoint, "--model", "stranger", "--timeout", "20"]
    with Client(endpoint, model="stranger") as client:
        answer = client.predict(b"1", timeout=20)
        assert (answer.rungs, answer.is_uncertain) == ("int8;uncertain", True)
        assert client.infer({"encoded": ["a"]}, timeout=20).is_uncertain
    found = cli("predict", photo, *options, "--output", "json")
    assert found.json()["rungs"] == "int8;uncertain"
    text = cli("predict", photo, *options)
    assert text.stdout == "ox\n"
    assert text.stderr.startswith(f"warning: {photo}: uncertain: there was no time for the next")
    told = cli("predict", "--input", "encoded=a", *options, "--output", "json")
    assert told.json()["rungs"] == "int8;uncertain"
    assert "warning: uncertain" in told.stderr


def test_a_certain_answer_of_a_ladder_warns_of_nothing(cli: Any, serve: Any, photo: Any) -> None:
    answers = {"serving_default": {"out": ["ox"]}}
    endpoint = serve(TfsModel((TEXT_IN,), answers, headers=_rung("fp32")))
    found = cli("predict", photo, "--endpoint", endpoint, "--model", "stranger", "--output", "json")
    assert (found.json()["rungs"], found.stderr) == ("fp32", "")


def test_other_servers_say_nothing_of_what_served(serve: Any) -> None:
    model = TfsModel((TEXT_IN,), {"serving_default": {"out": ["ox"]}})
    with Client(serve(model), model="stranger") as client:
        assert client.predict(b"1", timeout=20).served_by is None
        assert client.metadata(timeout=20).to_json()["served_by"] is None
