"""Classify, Regress and MultiInference, asked by the official client and over REST."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import grpc
import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]
HALF = "half_plus_two"
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"

Ask = Callable[..., Any]


@pytest.fixture(scope="session")
def given(apis: Any) -> Ask:
    """The Input message of these examples, with a context where one is given."""

    def make(examples: list[Any], context: Any = None) -> Any:
        sent = apis.input_pb2.Input()
        if context is None:
            sent.example_list.examples.extend(examples)
        else:
            sent.example_list_with_context.examples.extend(examples)
            sent.example_list_with_context.context.CopyFrom(context)
        return sent

    return make


@pytest.fixture(scope="session")
def classify(apis: Any, stub: Any, given: Ask) -> Ask:
    def ask(signature: str, *examples: Any, context: Any = None, model: str = HALF) -> Any:
        request = apis.classification_pb2.ClassificationRequest(input=given([*examples], context))
        request.model_spec.name, request.model_spec.signature_name = model, signature
        return stub.Classify(request, 20)

    return ask


@pytest.fixture(scope="session")
def regress(apis: Any, stub: Any, given: Ask) -> Ask:
    def ask(signature: str, *examples: Any, context: Any = None, model: str = HALF) -> Any:
        request = apis.regression_pb2.RegressionRequest(input=given([*examples], context))
        request.model_spec.name, request.model_spec.signature_name = model, signature
        return stub.Regress(request, 20)

    return ask


@pytest.fixture(scope="session")
def infer_all(apis: Any, stub: Any, given: Ask) -> Ask:
    """MultiInference; a task is a signature and its method, or a whole model_spec as a dict."""

    def ask(examples: list[Any], *tasks: tuple[Any, str]) -> Any:
        request = apis.inference_pb2.MultiInferenceRequest(input=given(examples))
        for spec, method in tasks:
            named = spec if isinstance(spec, dict) else {"name": HALF, "signature_name": spec}
            request.tasks.add(method_name=method, model_spec=named)
        return stub.MultiInference(request, 20)

    return ask


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code().name, error.value.details()


def classes_of(response: Any) -> list[list[tuple[str, float]]]:
    rows = response.result.classifications
    return [[(item.label, item.score) for item in row.classes] for row in rows]


def values_of(response: Any) -> list[float]:
    return [item.value for item in response.result.regressions]


def post(server: Any, path: str, **body: Any) -> Any:
    answer = server.ask(path, body)
    return answer.json() if answer.is_success else (answer.status_code, answer.json()["error"])


def test_regress_gives_what_tensorflow_gives(
    regress: Ask, example: Ask, in_tensorflow: Ask
) -> None:
    rows = [example(x=value) for value in (1.0, 2.5, -7.25)]
    response = regress("regress_x_to_y", *rows)
    feed = {"tf_example:0": [row.SerializeToString() for row in rows]}
    assert values_of(response) == in_tensorflow("y:0", feed)[:, 0].tolist() == [2.5, 3.25, -1.625]
    assert values_of(regress("regress_flat", *rows)) == values_of(response)
    spec = response.model_spec
    assert (spec.name, spec.signature_name, spec.version.value) == (HALF, "regress_x_to_y", 1)


def test_classify_gives_labels_scores_or_both(classify: Ask, example: Ask) -> None:
    rows = [
        example(x=2.0, x2=1.0, words=[b"a", b"b"], numbers=[3, 4]),
        example(x=4.0, words=[b"c", "ä".encode()], numbers=[5, 6]),
    ]
    assert classes_of(classify("classify_x_to_y", *rows)) == [[("", 3.0)], [("", 4.0)]]
    named = [[("first", 2.0), ("second", 1.0)], [("first", 4.0), ("second", 0.0)]]
    assert classes_of(classify("classify_named", *rows)) == named
    words = [[("a", 0.0), ("b", 0.0)], [("c", 0.0), ("ä", 0.0)]]
    assert classes_of(classify("classify_words", *rows)) == words
    response = classify("classify_numbers", *rows)
    assert classes_of(response) == [[("", 3.0), ("", 4.0)], [("", 5.0), ("", 6.0)]]
    assert response.model_spec.signature_name == "classify_numbers"


def test_the_features_of_a_context_are_in_each_example(
    regress: Ask, classify: Ask, example: Ask
) -> None:
    rows = [example(x2=1.0), example(x2=2.0, x=10.0), example()]
    assert values_of(regress("regress_x_to_y", *rows, context=example(x=4.0))) == [4.0, 7.0, 4.0]
    named = classes_of(classify("classify_named", *rows, context=example(x=4.0)))
    assert [[score for _, score in row] for row in named] == [[4.0, 1.0], [10.0, 2.0], [4.0, 0.0]]


def test_signatures_of_tensorflow_2_are_known_by_their_inputs_and_outputs(
    classify: Ask, regress: Ask, example: Ask, server: Any
) -> None:
    """They all declare tensorflow/serving/predict."""
    assert classes_of(classify("classify", example(x=2.0), model="new")) == [[("", 2.0)]]
    assert values_of(regress("regress", example(x=2.0), model="new")) == [3.0]
    answer = post(server, "new:regress", signature_name="regress", examples=[{"x": 2.5}])
    assert answer == {"results": [3.5]}


def test_multi_inference_runs_several_signatures_on_the_same_examples(
    infer_all: Ask, example: Ask
) -> None:
    tasks = (
        ("regress_x_to_y", REGRESS),
        ("classify_named", CLASSIFY),
        ("regress_x_to_y2", REGRESS),
    )
    response = infer_all([example(x=2.0), example(x=4.0, x2=1.0)], *tasks)
    first, second, third = response.results
    assert [item.value for item in first.regression_result.regressions] == [3.0, 4.0]
    rows = second.classification_result.classifications
    assert [[item.label for item in row.classes] for row in rows] == [["first", "second"]] * 2
    assert [item.value for item in third.regression_result.regressions] == [4.0, 5.0]
    specs = [(r.model_spec.name, r.model_spec.signature_name) for r in response.results]
    assert specs == [(HALF, signature) for signature, _ in tasks]
    assert {r.model_spec.version.value for r in response.results} == {1}


def test_what_multi_inference_refuses(infer_all: Ask, example: Ask) -> None:
    rows = [example(x=2.0)]
    y, y2 = ("regress_x_to_y", REGRESS), ("regress_x_to_y2", REGRESS)
    other = ({"name": "new", "signature_name": "regress"}, REGRESS)
    nameless = ({"signature_name": "regress_x_to_y"}, REGRESS)
    assert refused(lambda: infer_all(rows)) == (
        "INVALID_ARGUMENT",
        "ModelSpec has no name specified.",
    )
    for tasks, code, text in (
        ((y, y), "INVALID_ARGUMENT", "Duplicate evaluation of signature: regress_x_to_y"),
        ((y, other), "INVALID_ARGUMENT", "must access the same model name"),
        ((y, nameless), "INVALID_ARGUMENT", "Found ModelSpec with an empty model name."),
        (
            (("no", REGRESS),),
            "INVALID_ARGUMENT",
            "Requested signature not found in model graph: no",
        ),
        ((("serving_default", "tensorflow/serving/predict"),), "UNIMPLEMENTED", "Unsupported"),
        ((y2, ("regress_x2_to_y3", REGRESS)), "INVALID_ARGUMENT", "Input tensor must be the same"),
        ((("classify_named", REGRESS),), "INVALID_ARGUMENT", "Expected one output Tensor."),
        ((y, ("regress_wide", REGRESS)), "INVALID_ARGUMENT", "Expected output Tensor shape to be"),
    ):
        found_code, found_text = refused(lambda tasks=tasks: infer_all(rows, *tasks))
        assert (found_code, text in found_text) == (code, True), found_text
    assert refused(lambda: infer_all([], y)) == ("INVALID_ARGUMENT", "Input is empty.")


@pytest.mark.parametrize(
    ("signature", "text"),
    [
        ("no_such", "No signature was found with the name: no_such"),
        ("", "No classification inputs found in SignatureDef: (x: float32[...]) -> "),
        ("regress_x_to_y", "Expected classification signature outputs to contain at least one of"),
        ("classify_flat", "Expected Tensor shape: [batch_size num_classes] but got [2]"),
        ("classify_uneven", "Tensors class and score should match in dim_size(1). Got 2 vs. 1"),
        ("classify_numbers_as_classes", "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        ("asset", "Expected one input Tensor."),
    ],
)
def test_what_classify_refuses(
    classify: Ask, example: Ask, server: Any, signature: str, text: str
) -> None:
    rows = [example(x=1.0), example(x=2.0)]
    code, message = refused(lambda: classify(signature, *rows))
    assert (code, text in message) == ("INVALID_ARGUMENT", True), message
    body = {"signature_name": signature, "examples": [{"x": 1.0}, {"x": 2.0}]}
    status, message = post(server, f"{HALF}:classify", **body)
    assert (status, text in message) == (400, True), message


@pytest.mark.parametrize(
    ("signature", "text"),
    [
        ("no_such", "No signature was found with the name: no_such"),
        ("", "No regression inputs found in SignatureDef: "),
        ("classify_x_to_y", "No regression outputs found in SignatureDef: "),
        ("classify_named", "Expected one output Tensor."),
        ("regress_wide", "either [batch_size] or [batch_size, 1] but got [2,2]"),
        ("regress_double", "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
        ("regress_one", "Input batch size did not match output batch size: 2 vs. 1"),
        ("regress_x2_to_y3", "is float32, and examples are serialized: bytes"),
        ("asset", "Expected one input Tensor."),
    ],
)
def test_what_regress_refuses(
    regress: Ask, example: Ask, server: Any, signature: str, text: str
) -> None:
    rows = [example(x=1.0), example(x=2.0)]
    code, message = refused(lambda: regress(signature, *rows))
    assert (code, text in message) == ("INVALID_ARGUMENT", True), message
    body = {"signature_name": signature, "examples": [{"x": 1.0}, {"x": 2.0}]}
    status, message = post(server, f"{HALF}:regress", **body)
    assert (status, text in message) == (400, True), message


def test_an_example_that_the_model_cannot_parse_is_invalid(
    classify: Ask, example: Ask, server: Any
) -> None:
    code, message = refused(lambda: classify("classify_x_to_y", example(x2=1.0)))
    assert code == "INVALID_ARGUMENT"
    assert "Feature: x (data type: float) is required" in message
    body = {"signature_name": "classify_x_to_y", "examples": [{"x": 1}]}
    status, message = post(server, f"{HALF}:classify", **body)
    assert status == 400
    assert "Data types don't match" in message  # a whole number is an int64, as the original has it


def test_requests_without_a_model_or_an_input_are_invalid(apis: Any, stub: Any) -> None:
    request = apis.classification_pb2.ClassificationRequest()
    assert refused(lambda: stub.Classify(request, 20)) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    request.model_spec.name, request.model_spec.signature_name = HALF, "classify_x_to_y"
    assert refused(lambda: stub.Classify(request, 20)) == ("INVALID_ARGUMENT", "Input is empty.")
    request.input.example_list.SetInParent()
    assert refused(lambda: stub.Classify(request, 20)) == ("INVALID_ARGUMENT", "Input is empty.")
    other = apis.regression_pb2.RegressionRequest()
    assert refused(lambda: stub.Regress(other, 20)) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def test_a_label_that_is_not_text_is_named_on_grpc_and_base64_on_rest(
    classify: Ask, example: Ask, server: Any
) -> None:
    code, message = refused(lambda: classify("classify_bytes", example(x=1.0)))
    assert (code, "the label b'\\xff' is not UTF-8" in message) == ("INTERNAL", True)
    body = {"signature_name": "classify_bytes", "examples": [{"x": 1.0}]}
    assert post(server, f"{HALF}:classify", **body) == {"results": [[[{"b64": "/w=="}, 0.0]]]}


def test_classify_and_regress_over_rest(server: Any, ready: None) -> None:
    rows = [{"x": 2.0, "x2": [0.1]}, {"x": [4.0]}]
    answer = post(server, f"{HALF}:classify", signature_name="classify_named", examples=rows)
    assert answer == {
        "results": [[["first", 2.0], ["second", 0.1]], [["first", 4.0], ["second", 0.0]]]
    }
    answer = post(
        server, f"{HALF}/versions/1:regress", signature_name="regress_flat", examples=rows
    )
    assert answer == {"results": [3.0, 4.0]}
    answer = post(
        server, f"{HALF}:regress", signature_name="regress_flat", context={"x": 8.0}, examples=[{}]
    )
    assert answer == {"results": [6.0]}


def test_features_in_json_are_numbers_strings_booleans_and_base64(server: Any, ready: None) -> None:
    encoded = {"b64": base64.b64encode("ä".encode()).decode()}
    rows = [{"x": 0.0, "words": ["a", encoded], "numbers": [True, -5], "more": []}]
    answer = post(server, f"{HALF}:classify", signature_name="classify_words", examples=rows)
    assert answer == {"results": [[["a", 0.0], ["ä", 0.0]]]}
    answer = post(server, f"{HALF}:classify", signature_name="classify_numbers", examples=rows)
    assert answer == {"results": [[["", 1.0], ["", -5.0]]]}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": 3}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [[]]}, "Example must be JSON object but got JSON Array"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [[1.0]]}]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": {"y": 1}}]}, "unexpected JSON type: Object"),
        (
            {"examples": [{"x": [1.0, 2]}]},
            "Unexpected element type in feature: x expecting type: float",
        ),
        ({"examples": [{"x": ["a", 2]}]}, "element type in feature: x expecting type: bytes"),
        ({"examples": [{"x": 2**63}]}, "x has uint64 element. Only int64 is supported."),
        ({"examples": [{"x": 1e300}]}, "Cannot convert JSON value: 1e+300 to float"),
        ({"examples": [{"x": {"b64": "?"}}]}, "Unable to base64 decode"),
        (
            {"examples": [{"x": 1.0}], "context": 3},
            "Example must be JSON object but got JSON Number",
        ),
        ({"examples": [{"x": 1.0}], "signature_name": 3}, "'signature_name' key must be a string"),
    ],
)
@pytest.mark.parametrize("method", ["classify", "regress"])
def test_what_is_wrong_in_the_json_of_examples_is_said(
    server: Any, ready: None, method: str, body: dict[str, Any], text: str
) -> None:
    status, message = post(server, f"{HALF}:{method}", **body)
    assert (status, text in message) == (400, True), message


def test_long_names_are_cut_in_what_is_said_of_them(
    classify: Ask, infer_all: Ask, example: Ask, server: Any
) -> None:
    long = "n" * 2_000_000
    for call in (
        lambda: classify(long, example(x=1.0)),
        lambda: infer_all([example(x=1.0)], (long, REGRESS)),
        lambda: infer_all([example(x=1.0)], ("regress_x_to_y", long)),
    ):
        assert len(refused(call)[1]) < 500
    for body in ({"examples": [{long: None}]}, {"examples": [{"x": 1.0}], "signature_name": long}):
        assert len(post(server, f"{HALF}:classify", **body)[1]) < 500


@pytest.mark.parametrize("method", ["classify", "regress"])
def test_a_call_whose_deadline_has_passed_is_not_started(
    server: Any, ready: None, method: str
) -> None:
    headers = {"X-Request-Timeout-Ms": "0"}
    answer = server.ask(f"{HALF}:{method}", {"examples": [{"x": 1.0}]}, headers=headers)
    assert answer.status_code == 504


def test_log_and_metrics_count_these_calls_as_predictions(
    regress: Ask, infer_all: Ask, example: Ask, server: Any
) -> None:
    series = (
        'mlserve_requests_total{api="tfs",code="ok",kind="predict",model="half_plus_two",'
        'signature="regress_x_to_y2",transport="%s",version="1"}'
    )

    def counted(transport: str) -> float:
        lines = server.get("metrics").text.splitlines()
        named = (line for line in lines if line.startswith(series % transport))
        return float(next(named, "x 0").rsplit(" ", 1)[1])

    before = counted("grpc"), counted("rest")
    regress("regress_x_to_y2", example(x=1.0))
    infer_all([example(x=1.0)], ("regress_x_to_y2", REGRESS), ("regress_x_to_y", REGRESS))
    post(server, f"{HALF}:regress", signature_name="regress_x_to_y2", examples=[{"x": 1.0}])
    assert (counted("grpc") - before[0], counted("rest") - before[1]) == (2, 1)
