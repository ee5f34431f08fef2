"""Models whose signatures are not only those of Predict, in one real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlserve.testing.processes import wait_until
from tests.harness.model_server import INSTALLED, ModelServer, started

HALF, ODD, NEW = "half_plus_two", "odd", "new"
"""Models of TensorFlow 1 and, the last one, of TensorFlow 2."""


class Definitions:
    """Makes SignatureDefs of tensors."""

    def __init__(self, v1: Any) -> None:
        self._v1 = v1

    def __call__(self, method: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
        def infos(tensors: dict[str, Any]) -> dict[str, Any]:
            return {name: self._v1.saved_model.build_tensor_info(t) for name, t in tensors.items()}

        build = self._v1.saved_model.signature_def_utils.build_signature_def
        return build(infos(inputs), infos(outputs), f"tensorflow/serving/{method}")


def save_half_plus_two(folder: Path) -> None:
    """y = x / 2 + 2 of examples, in variables, with an asset: the model of the original's tests."""
    import tensorflow as tf

    v1 = tf.compat.v1
    define = Definitions(v1)
    with tf.Graph().as_default(), v1.Session() as session:
        a, b, c = (v1.Variable(value, use_resource=False) for value in (0.5, 2.0, 3.0))
        examples = v1.placeholder(tf.string, name="tf_example")
        parsed = v1.parse_example(
            examples,
            {
                "x": tf.io.FixedLenFeature([1], tf.float32),
                "x2": tf.io.FixedLenFeature([1], tf.float32, [0.0]),
                "words": tf.io.VarLenFeature(tf.string),
                "numbers": tf.io.VarLenFeature(tf.int64),
            },
        )
        x, x2 = tf.identity(parsed["x"], "x"), tf.identity(parsed["x2"], "x2")
        y, y2, y3 = tf.add(a * x, b, "y"), tf.add(a * x, c, "y2"), tf.add(a * x2, c, "y3")
        words = tf.sparse.to_dense(parsed["words"])
        numbers = tf.cast(tf.sparse.to_dense(parsed["numbers"]), tf.float32)
        both = tf.concat([x, x2], 1)
        names = tf.tile([["first", "second"]], [tf.shape(x)[0], 1])
        odd = tf.tile([["\xff".encode("latin-1")]], [tf.shape(x)[0], 1])
        asset = folder.parent.parent / "words.txt"
        asset.write_text("from an asset\n")
        name = tf.constant(str(asset))
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, name)
        table = v1.Variable("", trainable=False, use_resource=False, name="read")
        main = tf.group(table.assign(tf.io.read_file(name)))
        session.run(v1.global_variables_initializer())
        sent = {"inputs": examples}
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": define("predict", {"x": x}, {"y": y}),
                "regress_x_to_y": define("regress", sent, {"outputs": y}),
                "regress_x_to_y2": define("regress", sent, {"outputs": y2}),
                "regress_x2_to_y3": define("regress", {"inputs": x2}, {"outputs": y3}),
                "regress_flat": define("regress", sent, {"outputs": y[:, 0]}),
                "regress_wide": define("regress", sent, {"outputs": both}),
                "regress_double": define("regress", sent, {"outputs": tf.cast(y, tf.float64)}),
                "regress_one": define("regress", sent, {"outputs": y[:1]}),
                "classify_x_to_y": define("classify", sent, {"scores": y}),
                "classify_named": define("classify", sent, {"scores": both, "classes": names}),
                "classify_words": define("classify", sent, {"classes": words}),
                "classify_numbers": define("classify", sent, {"scores": numbers}),
                "classify_bytes": define("classify", sent, {"classes": odd}),
                "classify_flat": define("classify", sent, {"scores": y[:, 0]}),
                "classify_uneven": define("classify", sent, {"scores": y, "classes": names}),
                "classify_numbers_as_classes": define("classify", sent, {"classes": y}),
                "asset": define("predict", {}, {"text": table}),
            },
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=main,
        )
        builder.save()


def save_odd(folder: Path) -> None:
    """Signatures without inputs, with references, without shapes, quantised, and what is none."""
    import tensorflow as tf

    v1 = tf.compat.v1
    define = Definitions(v1)
    with tf.Graph().as_default(), v1.Session() as session:
        weight = v1.Variable([1.5, 2.5], use_resource=False)
        x = v1.placeholder(tf.float32, [None], "x")
        quantised = v1.placeholder(tf.quint8, [None], "quantised")
        sparse = v1.sparse_placeholder(tf.float32)
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1, 2], tf.int64)), -1
        )
        key = v1.placeholder(tf.string, [None], "key")
        session.run(v1.global_variables_initializer())
        shapeless = define("predict", {"x": x}, {"y": x * 2})
        for info in (shapeless.inputs["x"], shapeless.outputs["y"]):
            info.ClearField("tensor_shape")
        typed = {
            f"same_{dtype.name}": define("predict", {"x": same}, {"y": tf.identity(same)})
            for dtype in (tf.string, tf.bool, tf.half, tf.bfloat16, tf.quint8, tf.qint32)
            for same in [v1.placeholder(dtype, [None], f"same_{dtype.name}")]
        }
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": define("predict", {}, {"weight": weight + 1}),
                "reference": define("predict", {"x": x}, {"weight": weight._ref(), "y": x * 2}),
                "shapeless": shapeless,
                "looked_up": define("predict", {"key": key}, {"value": table.lookup(key)}),
                "real": define(
                    "predict",
                    {"q": quantised},
                    {"real": tf.quantization.dequantize(quantised, 0.0, 510.0)},
                ),
                "sparse": define("predict", {"x": sparse}, {"y": x}),
                "nothing": define("predict", {"x": x}, {}),
                **typed,
            },
            main_op=v1.tables_initializer(),
        )
        builder.save(as_text=True)


def save_new(folder: Path) -> None:
    """Signatures of TensorFlow 2: with defaults, for Classify and for Regress."""
    import tensorflow as tf

    def spec(dtype: Any, *shape: int | None) -> Any:
        return tf.TensorSpec(shape, dtype)

    class Model(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[spec(tf.float32, None), spec(tf.float32)])  # type: ignore[untyped-decorator]
        def scaled(self, a: Any, b: Any = tf.constant(2.0)) -> Any:  # noqa: B008
            return {"y": a * b}

        @tf.function(input_signature=[spec(tf.string, None)])  # type: ignore[untyped-decorator]
        def greeting(self, name: Any = tf.constant(["you", "all"])) -> Any:  # noqa: B008
            return {"text": tf.strings.join(["hello ", name])}

        @tf.function(input_signature=[spec(tf.string, None)])  # type: ignore[untyped-decorator]
        def classify(self, inputs: Any) -> Any:
            return {"scores": self._parsed(inputs)}

        @tf.function(input_signature=[spec(tf.string, None)])  # type: ignore[untyped-decorator]
        def regress(self, inputs: Any) -> Any:
            return {"outputs": self._parsed(inputs) + 1.0}

        def _parsed(self, inputs: Any) -> Any:
            feature = tf.io.FixedLenFeature([1], tf.float32)
            return tf.io.parse_example(inputs, {"x": feature})["x"]

    model = Model()
    signatures = {
        "serving_default": model.scaled,
        "greeting": model.greeting,
        "classify": model.classify,
        "regress": model.regress,
    }
    tf.saved_model.save(model, str(folder), signatures=signatures)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the models, each with a version 1."""
    folder = tmp_path_factory.mktemp("models")
    for name, save in ((HALF, save_half_plus_two), (ODD, save_odd), (NEW, save_new)):
        (folder / name).mkdir()
        save(folder / name / "1")
    return folder


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[ModelServer]:
    """A running server of them all."""
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{models / name}" model_platform: "tensorflow" }}'
        for name in (HALF, ODD, NEW)
    )
    config = models / "models.config"
    config.write_text(f"model_config_list {{ {entries} }}")
    with started(INSTALLED, models / "log", f"--model_config_file={config}") as server:
        yield server


@pytest.fixture(scope="session")
def apis() -> Any:
    """The official modules by name."""
    from tensorflow_serving import apis
    from tensorflow_serving.apis import (  # noqa: F401
        classification_pb2,
        get_model_metadata_pb2,
        inference_pb2,
        input_pb2,
        predict_pb2,
        prediction_service_pb2_grpc,
        regression_pb2,
    )

    return apis


@pytest.fixture(scope="session")
def stub(apis: Any, server: Any, ready: Any) -> Iterator[Any]:
    """The official client of the server."""
    with grpc.insecure_channel(server.grpc) as channel:
        yield apis.prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="session")
def ready(server: Any) -> None:
    wait_until(server.is_ready, timeout=120)


@pytest.fixture(scope="session")
def example() -> Callable[..., Any]:
    """A tf.Example with these features, the type of each told by its values."""
    import tensorflow as tf

    def make(**features: Any) -> Any:
        message = tf.train.Example()
        for name, values in features.items():
            listed = values if isinstance(values, list) else [values]
            kind = {float: "float_list", int: "int64_list", bytes: "bytes_list"}[type(listed[0])]
            getattr(message.features.feature[name], kind).value.extend(listed)
        return message

    return make


@pytest.fixture(scope="session")
def in_tensorflow(models: Path) -> Callable[..., Any]:
    """What TensorFlow itself makes of a feed of tensors, both by their names in the graph."""
    import tensorflow as tf

    v1 = tf.compat.v1
    session = v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        v1.saved_model.loader.load(session, ["serve"], str(models / HALF / "1"))
    run: Callable[..., Any] = session.run
    return run
