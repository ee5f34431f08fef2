"""SavedModels whose graph reads and writes files, or runs Python, are refused before they run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlserve_model_server.flags import parse
from mlserve_tfserving.backend import TFServingBackend

from mlserve.artifact import Artifact
from mlserve.errors import ModelLoadFailed
from mlserve.load_options import LoadOptions
from mlserve.unsafe_ops import UNSAFE

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def tf() -> Any:
    import tensorflow as tf

    return tf


def load(base_path: Path, *, allowed: bool = False) -> Any:
    return TFServingBackend().load(
        Artifact.open(base_path, "m", 1), LoadOptions(allow_unsafe_ops=allowed)
    )


def save(tf: Any, base_path: Path, step: Callable[[Any], Any], **children: Any) -> Path:
    """Saves a module with one signature: `x` string[N] -> what the step makes of it."""
    module = tf.Module()
    for name, child in children.items():
        setattr(module, name, child)
    module.serve = tf.function(
        lambda x: {"y": step(x)}, input_signature=[tf.TensorSpec([None], tf.string, name="x")]
    )
    tf.saved_model.save(module, str(base_path / "1"), signatures=module.serve)
    return base_path


def _of_each(tf: Any, op: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: tf.map_fn(op, x, fn_output_signature=tf.string)


def _written(tf: Any, path: Any) -> Any:
    with tf.control_dependencies([tf.io.write_file(path, "x")]):
        return tf.identity(path)


def _printed(tf: Any, x: Any) -> Any:
    with tf.control_dependencies([tf.print(x, output_stream="file:///nowhere/printed")]):
        return tf.identity(x)


def _lines(tf: Any, x: Any) -> Any:
    return tf.data.TextLineDataset(x).reduce(tf.constant(""), lambda a, b: a + b)


STEPS: dict[str, tuple[str, Callable[[Any], Callable[[Any], Any]]]] = {
    "a file is read": ("ReadFile", lambda tf: _of_each(tf, tf.io.read_file)),
    "a file is written": ("WriteFile", lambda tf: _of_each(tf, lambda p: _written(tf, p))),
    "files are listed": ("MatchingFiles", lambda tf: tf.io.matching_files),
    "Python runs": ("PyFunc", lambda tf: lambda x: tf.numpy_function(bytes, [x], tf.string)),
    "eager Python runs": ("EagerPyFunc", lambda tf: lambda x: tf.py_function(len, [x], tf.string)),
    "a dataset reads": ("TextLineDataset", lambda tf: lambda x: _lines(tf, x)),
    "a file is printed to": ("PrintV2", lambda tf: lambda x: _printed(tf, x)),
    "a checkpoint is read": (
        "RestoreV2",
        lambda tf: (
            lambda x: tf.raw_ops.RestoreV2(
                prefix=x[0], tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.string]
            )[0]
        ),
    ),
    "only in a branch": (
        "ReadFile",
        lambda tf: (
            lambda x: tf.cond(
                tf.size(x) > 1, lambda: tf.io.read_file(x[0]), lambda: tf.constant("")
            )
        ),
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_it_is_refused_and_the_message_names_operation_node_and_flag(
    tf: Any, tmp_path: Path, name: str
) -> None:
    op, step = STEPS[name]
    save(tf, tmp_path, step(tf))

    with pytest.raises(ModelLoadFailed) as refused:
        load(tmp_path)

    assert re.search(
        rf"the SavedModel in .*/1 can do more than compute: .*{op} \(node '\w+", str(refused.value)
    )
    assert "--allow-unsafe-ops" in str(refused.value.hint)


def test_it_is_loaded_where_that_is_allowed(tf: Any, tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "secret").write_text("s3cret")
    save(tf, tmp_path, _of_each(tf, tf.io.read_file))
    runner = load(tmp_path, allowed=True)
    path = str(tmp_path / "secret").encode()
    answer = runner.run("serving_default", {"x": np.array([path], object)})
    assert list(answer["y"]) == [b"s3cret"], "this is what a caller would get"


def test_a_function_that_no_caller_reaches_is_left_alone(tf: Any, tmp_path: Path) -> None:
    reader = tf.function(tf.io.read_file, input_signature=[tf.TensorSpec([], tf.string)])
    save(tf, tmp_path, tf.strings.upper, loads_a_file=reader, weight=tf.Variable(1.0))
    assert load(tmp_path).signatures


def test_a_table_of_the_models_own_assets_is_read(tf: Any, tmp_path: Path) -> None:
    import numpy as np

    words = tmp_path / "words"
    words.write_text("cat\ndog\n")
    table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(words),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        -1,
    )
    save(tf, tmp_path, table.lookup, table=table)
    words.unlink()
    answer = load(tmp_path).run("serving_default", {"x": np.array([b"dog"], object)})
    assert list(answer["y"]) == [1]


@pytest.mark.parametrize("name", ["../../words", "/etc/passwd"])
def test_an_asset_outside_of_the_folder_of_assets_is_refused(
    tf: Any, tmp_path: Path, name: str
) -> None:
    """The file says where its assets are, so whoever made it could name any."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    words = tmp_path / "words"
    words.write_text("cat\ndog\n")
    place = tf.lookup.TextFileIndex
    given = tf.lookup.TextFileInitializer(
        str(words), tf.string, place.WHOLE_LINE, tf.int64, place.LINE_NUMBER
    )
    table = tf.lookup.StaticHashTable(given, -1)
    save(tf, tmp_path, table.lookup, table=table)
    path = next(tmp_path.rglob("saved_model.pb"))
    saved = SavedModel.FromString(path.read_bytes())
    for asset in saved.meta_graphs[0].asset_file_def:
        asset.filename = name
    path.write_bytes(saved.SerializeToString())

    with pytest.raises(ModelLoadFailed, match=r"InitializeTableFromTextFileV2 .* reads files"):
        load(tmp_path)


def test_a_table_of_another_file_is_refused(tf: Any, tmp_path: Path) -> None:
    from tensorflow.python.ops.lookup_ops import StaticHashTable, TextFileInitializer

    words = tmp_path / "words"
    words.write_text("cat\ndog\n")

    class Elsewhere(TextFileInitializer):  # type: ignore[misc]
        def initialize(self, table: Any) -> Any:
            return tf.raw_ops.InitializeTableFromTextFileV2(
                table_handle=table.resource_handle,
                filename=str(words),
                key_index=-2,
                value_index=-1,
                vocab_size=-1,
                delimiter="\t",
                offset=0,
            )

    given = Elsewhere(
        str(words),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    table = StaticHashTable(given, -1)
    save(tf, tmp_path, table.lookup, table=table)

    with pytest.raises(ModelLoadFailed, match=r"InitializeTableFromTextFileV2 .* reads files"):
        load(tmp_path)


def test_what_tensorflow_1_wrote_is_looked_at_too(tf: Any, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        x = v1.placeholder(tf.string, [], name="x")
        y = tf.io.read_file(x)
        v1.saved_model.simple_save(session, str(tmp_path / "1"), {"x": x}, {"y": y})
    with pytest.raises(ModelLoadFailed, match=r"ReadFile \(node 'ReadFile'\) reads files"):
        load(tmp_path)


def test_a_table_that_tensorflow_1_wrote_is_read(tf: Any, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    words = tmp_path / "words"
    words.write_text("cat\ndog\n")
    with v1.Session(graph=tf.Graph()) as session:
        x = v1.placeholder(tf.string, [None], name="x")
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                str(words),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            -1,
        )
        y = table.lookup(x)
        session.run(v1.tables_initializer())
        v1.saved_model.simple_save(
            session,
            str(tmp_path / "1"),
            {"x": x},
            {"y": y},
            legacy_init_op=v1.tables_initializer(),
        )
    assert load(tmp_path).signatures


def test_every_operation_that_takes_a_path_is_known(tf: Any) -> None:
    """Of a newer TensorFlow, this names the operations that have to be looked at."""
    from tensorflow.python.framework import op_def_registry

    path = re.compile(
        r"^(file|ckpt_path|path|.*dir$|logdir|prefix|.*_uri|.*_url|address|"
        r"data_source_name|filename|.*_file$|filenames|file_pattern|chunk_file)s?$"
    )
    found = set()
    for name in dir(tf.raw_ops):
        definition = op_def_registry.get(name)
        if definition is not None:
            names = [item.name for item in (*definition.input_arg, *definition.attr)]
            if any(map(path.fullmatch, names)):
                found.add(name.removeprefix("Experimental"))
    known = {*UNSAFE, "FixedUnigramCandidateSampler"}
    assert {"ReadFile", "SaveV2", "TFRecordDataset"} <= found
    assert found <= known, found - known
    readers = {
        name for name in dir(tf.raw_ops) if re.search(r"PyFunc|(File|Record|Line|LMDB)Reader", name)
    }
    assert readers <= known, readers - known


def test_the_model_server_has_the_flag() -> None:
    assert parse(["--allow_unsafe_ops"]).is_on("allow_unsafe_ops")
    assert not parse([]).is_on("allow_unsafe_ops")
