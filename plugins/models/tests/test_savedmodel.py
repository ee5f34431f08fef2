"""A user's own SavedModels: which function is served, what it gives, and what is refused."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.contract import UNIT
from mlserve.errors import ExportError
from mlserve.pipeline import Activation
from mlserve.sources import Classifier, How, Kind

pytestmark = [
    pytest.mark.tensorflow,
    # Keras 3.15 asks NumPy for an array in a way that NumPy 2.4 will not take for ever.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]

Open = Callable[..., Classifier]
Labels = Callable[[int], Path]
Save = Callable[..., Path]
SHAPE = [None, 6, 8, 3]


@pytest.fixture
def save_output(save_module: Save, tf: Any, tmp_path: Path) -> Callable[[str], Path]:
    """Saves a model whose output is that expression of the image batch `x`."""

    def save(expression: str) -> Path:
        return save_module(
            tmp_path / "outer" / "m", eval(f"lambda x: {expression}", {"tf": tf}), SHAPE
        )

    return save


@pytest.fixture
def save_signature(tf: Any, tmp_path: Path) -> Callable[..., Path]:
    """Saves a function of named tensors as `serving_default`, in the usual way."""

    def save(function: Any, *specs: Any) -> Path:
        module = tf.Module()
        served = tf.function(function, input_signature=list(specs))
        tf.saved_model.save(module, str(tmp_path / "own"), {"serving_default": served})
        return tmp_path / "own"

    return save


def test_the_signature_is_what_is_served(
    open_model: Open, labels_file: Labels, save_signature: Any, tf: Any
) -> None:
    spec = tf.TensorSpec(SHAPE, name="pixels")
    path = save_signature(lambda pixels: {"out": pixels[:, 0, 0] * 7 - 3}, spec)
    model = open_model("defects", weights=str(path), labels=labels_file(3))
    assert (model.pipeline.height, model.pipeline.width) == (6, 8)
    assert (model.pipeline.scale, model.pipeline.offset) == (1 / 255, 0)
    assert model.pipeline.activation is Activation.SOFTMAX
    assert model.source == f"SavedModel {path}"
    images = np.random.default_rng(0).random((2, 6, 8, 3), dtype=np.float32)
    np.testing.assert_allclose(model.forward(images), images[:, 0, 0] * 7 - 3, atol=1e-6)


@pytest.mark.parametrize(
    ("output", "labels", "expected"),
    [
        ("tf.nn.softmax(x[:, 0, 0])", 3, Activation.IDENTITY),
        ("x[:, 0, 0]", 3, Activation.SOFTMAX),
        ("tf.sigmoid(x[:, 0, 0, :1])", 2, Activation.COMPLEMENT),
        ("x[:, 0, 0, :1] * 0.001", 2, Activation.SIGMOID),
    ],
)
def test_the_activation_is_found_in_the_graph_or_by_running_it(
    open_model: Open,
    labels_file: Labels,
    save_output: Any,
    output: str,
    *,
    labels: int,
    expected: Activation,
) -> None:
    folder = save_output(output)
    options = {"labels": labels_file(labels), "scale": UNIT}
    model = open_model("defects", weights=str(folder), **options)
    assert model.pipeline.activation is expected


@pytest.mark.parametrize(
    ("output", "units", "words"),
    [
        ("tf.abs(tf.sin(x[:, 0, 0]))", 3, "--activation none for scores, --activation softmax"),
        ("tf.abs(tf.sin(x[:, 0, 0, :1]))", 1, "--activation none for a score, --activation sigm"),
    ],
)
def test_an_activation_that_nothing_tells_is_asked_for(
    open_model: Open, labels_file: Labels, save_output: Any, output: str, units: int, words: str
) -> None:
    options = {"labels": labels_file(max(units, 2)), "scale": UNIT}
    folder = str(save_output(output))
    with pytest.raises(ExportError, match="neither the graph nor the probe tells") as asked:
        open_model("defects", weights=folder, **options)
    assert words in (asked.value.hint or "")
    assert "white is" in asked.value.message
    model = open_model("defects", weights=folder, **options, activation="none")
    assert model.facts["activation"].how is How.GIVEN


def test_probabilities_that_end_in_weights_are_asked_about(
    open_model: Open, labels_file: Labels, save_output: Any
) -> None:
    """Classes that are summed up into groups: the graph says logits, the probe says scores."""
    groups = "tf.nn.softmax(x[:, 0, 0]) @ tf.constant([[1.0, 0], [1, 0], [0, 1]])"
    with pytest.raises(ExportError, match="neither the graph nor the probe tells"):
        open_model("m", weights=str(save_output(groups)), labels=labels_file(2), scale=UNIT)


def test_a_softmax_over_one_output_is_refused(open_model: Open, save_output: Any) -> None:
    with pytest.raises(ExportError, match="softmax over one output, which is always 1"):
        open_model("m", weights=str(save_output("tf.nn.softmax(x[:, 0, 0, :1])")), scale=UNIT)


def test_rows_that_depend_on_each_other_are_refused(open_model: Open, save_output: Any) -> None:
    folder = str(save_output("x[:, 0, 0] - tf.reduce_mean(x, axis=0)[0, 0]"))
    with pytest.raises(ExportError, match="depends on its neighbours in the batch"):
        open_model("m", weights=folder, scale=UNIT)


def test_a_model_that_no_range_makes_a_difference_to_has_an_assumed_scale(
    open_model: Open, labels_file: Labels, save_output: Any
) -> None:
    relative = "tf.reduce_mean(x, [1, 2]) / tf.reduce_sum(tf.reduce_mean(tf.abs(x) + 1e-9, [1, 2])"
    folder = str(save_output(f"{relative}, axis=1, keepdims=True) * 9"))
    model = open_model("m", weights=folder, labels=labels_file(3))
    assert model.facts["scale"].how is How.ASSUMED
    assert (model.pipeline.scale, model.pipeline.offset) == (1 / 255, 0)


def test_channels_first_are_for_onnx_files(open_model: Open, save_output: Any) -> None:
    with pytest.raises(ExportError, match="--layout nchw is for ONNX files"):
        open_model("m", weights=str(save_output("x[:, 0, 0]")), scale=UNIT, layout="nchw")


def test_a_keras_export_is_one_of_them(
    open_model: Open, labels_file: Labels, keras: Any, tmp_path: Path
) -> None:
    layers = [keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    network = keras.Sequential([keras.Input((5, 5, 3)), *layers])
    network.export(tmp_path / "own", verbose=False)
    options = {"labels": labels_file(2), "scale": UNIT}
    model = open_model("defects", weights=str(tmp_path / "own"), **options)
    images = np.random.default_rng(0).random((2, 5, 5, 3), dtype=np.float32)
    np.testing.assert_allclose(model.forward(images), network(images), atol=1e-6)
    assert model.pipeline.activation is Activation.IDENTITY


@pytest.mark.parametrize("name", ["own.tar.gz", "own.tgz"])
def test_a_tar_file_of_the_folder(
    open_model: Open, labels_file: Labels, save_output: Any, tar_of: Any, name: str
) -> None:
    inner = save_output("x[:, 0, 0] - 1")
    path = inner.parent.parent / name
    path.write_bytes(tar_of(inner.parent))
    model = open_model("defects", weights=str(path), labels=labels_file(3))
    assert model.pipeline.classes == 3


@pytest.mark.parametrize("wrapper", ["", "own/"])
def test_what_macos_adds_to_a_tar_file_is_passed_over(
    open_model: Open, labels_file: Labels, save_output: Any, tmp_path: Path, wrapper: str
) -> None:
    """Its tar writes `._name` (AppleDouble) beside each file that has attributes."""
    folder = save_output("x[:, 0, 0] - 1")
    path = tmp_path / "own.tar.gz"
    beside = io.BytesIO(b"\0\5\x16\7" + b"\0" * 100)
    with tarfile.open(path, "w:gz") as archive:
        for name in ("._own", "__MACOSX/x", "._saved_model.pb", ".DS_Store", "variables/._x"):
            member = tarfile.TarInfo(name if name in ("._own", "__MACOSX/x") else wrapper + name)
            member.size = 104
            beside.seek(0)
            archive.addfile(member, beside)
        archive.add(folder, arcname=wrapper or ".")
    model = open_model("defects", weights=str(path), labels=labels_file(3))
    assert model.pipeline.classes == 3


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_message_names_the_tar_file_and_no_folder_that_is_gone_tomorrow(
    open_model: Open, tmp_path: Path, tar_of: Any, content: bytes
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ("saved_model.pb" if content else "other")).write_bytes(content)
    path = tmp_path / "own.tar.gz"
    path.write_bytes(tar_of(tmp_path / "m"))
    with pytest.raises(ExportError) as caught:
        open_model("m", weights=str(path))
    assert str(path) in caught.value.message
    assert "mlserve-savedmodel-" not in caught.value.message


def test_an_open_size_is_the_users(
    open_model: Open, labels_file: Labels, save_module: Save, tmp_path: Path
) -> None:
    shape = [None, None, None, 3]
    folder = str(save_module(tmp_path / "m", lambda images: images[:, 0, 0] - 1, shape))
    model = open_model("m", weights=folder, labels=labels_file(3), input_size=9)
    assert model.pipeline.height == 9
    with pytest.raises(ExportError, match="leaves its input size open"):
        open_model("m", weights=folder, labels=labels_file(3))


def test_a_model_that_fails_for_that_size_is_an_error(
    open_model: Open, save_module: Save, tf: Any, tmp_path: Path
) -> None:
    def multiply(images: Any) -> Any:
        return tf.reshape(images, [-1, 48]) @ tf.ones([48, 2])

    folder = save_module(tmp_path / "m", multiply, [None, None, None, 3])
    with pytest.raises(ExportError, match=r"cannot be run with images of 5x5|answers \d images"):
        open_model("m", weights=str(folder), input_size=5)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("tf.sigmoid(x[:, 0, 0])", r"3 outputs .* are independent probabilities"),
        ("x", r"output has the shape \[\?,6,8,3\], not \[N,classes\]"),
        ("x[:, 0, 0] / 0", "not finite"),
    ],
)
def test_outputs_that_are_no_scores_are_refused(
    open_model: Open, save_output: Any, output: str, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        open_model("m", weights=str(save_output(output)), kind=Kind.IMAGE_CLASSIFIER)


def test_signatures_of_another_interface_are_refused(
    open_model: Open, save_signature: Any, tf: Any
) -> None:
    def refusal(function: Any, *specs: Any) -> str:
        with pytest.raises(ExportError) as caught:
            open_model(
                "m", weights=str(save_signature(function, *specs)), kind=Kind.IMAGE_CLASSIFIER
            )
        return caught.value.message

    left, right = tf.TensorSpec(SHAPE, name="left"), tf.TensorSpec(SHAPE, name="right")
    added = refusal(lambda left, right: {"out": left + right}, left, right)
    assert added.endswith("has 2 inputs: left, right")
    two = refusal(lambda left: {"a": left[:, 0, 0], "b": left[:, 0, 1]}, left)
    assert two.endswith("has 2 outputs: a, b")
    flat = refusal(lambda x: {"out": x}, tf.TensorSpec([None, 8], name="x"))
    assert "the shape [?,8]" in flat
    text = tf.TensorSpec([None], tf.string, name="image")
    assert "takes string" in refusal(lambda image: {"out": image}, text)


def test_a_module_without_any_function_is_refused(
    open_model: Open, tf: Any, tmp_path: Path
) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"))
    with pytest.raises(ExportError, match=r"no signature serving_default .* \(signatures: none\)"):
        open_model("m", weights=str(tmp_path / "m"))


def test_a_folder_that_is_no_savedmodel_is_named_with_its_content(
    open_model: Open, tmp_path: Path
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    with pytest.raises(ExportError, match=r"no saved_model\.pb \(found: 1\)"):
        open_model("m", weights=str(tmp_path / "m"))


@pytest.mark.parametrize("data", [b"", b"no tar file", b"\x1f\x8b\x08 cut"])
def test_a_file_that_is_no_tar_file_is_an_error(
    open_model: Open, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "m.tar.gz").write_bytes(data)
    with pytest.raises(ExportError, match=r"m\.tar\.gz cannot be unpacked"):
        open_model("m", weights=str(tmp_path / "m.tar.gz"))


def test_a_damaged_savedmodel_is_an_error(
    open_model: Open, save_module: Save, tmp_path: Path
) -> None:
    folder = save_module(tmp_path / "m", lambda images: images[:, 0, 0], SHAPE)
    (folder / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(ExportError, match="a SavedModel that cannot be loaded"):
        open_model("m", weights=str(folder))


def test_a_model_that_reads_files_is_refused_before_it_runs_unless_that_is_allowed(
    open_model: Open, labels_file: Labels, save_module: Save, tf: Any, tmp_path: Path
) -> None:
    weight = tmp_path / "weight"
    weight.write_text("1.0")

    def forward(images: Any) -> Any:
        return images[:, 0, 0] * tf.strings.to_number(tf.io.read_file(str(weight)))

    folder = str(save_module(tmp_path / "m", forward, SHAPE))
    given = {"weights": folder, "labels": labels_file(3), "scale": (0.0, 1.0)}
    with pytest.raises(
        ExportError, match=r"m can do more than compute: ReadFile \(node "
    ) as refused:
        open_model("mine", **given)
    assert "--allow-unsafe-ops" in str(refused.value.hint)

    assert open_model("mine", **given, activation="softmax", allow_unsafe_ops=True).labels


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


SLIPS = {
    "a path that leads out": [_member("../slipped")],
    "an absolute path": [_member("/tmp/mlserve-slipped")],
    "a link that leads out, and a file behind it": [
        _member("out", tarfile.SYMTYPE, ".."),
        _member("out/slipped"),
    ],
    "a link to an absolute path": [_member("variables", tarfile.SYMTYPE, "/etc")],
    "a hard link that leads out": [_member("labels", tarfile.LNKTYPE, "../../etc/passwd")],
    "a device": [_member("saved_model.pb", tarfile.CHRTYPE)],
    "a pipe": [_member("saved_model.pb", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_tar_file_that_would_write_outside_its_folder_is_refused(
    open_model: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(unpacked))
    path = tmp_path / "m.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member in SLIPS[name]:
            archive.addfile(member, io.BytesIO(b""))
    before = set(tmp_path.iterdir())

    with pytest.raises(ExportError, match=r"cannot be unpacked|is not a SavedModel"):
        open_model("m", weights=str(path))

    assert set(tmp_path.iterdir()) == before
    assert all(file.name.startswith("mlserve-savedmodel-") for file in unpacked.iterdir())
    written = list(unpacked.rglob("*"))
    assert not Path("/tmp/mlserve-slipped").exists()
    assert not [file for file in written if file.is_symlink() and not _is_below(file, unpacked)]


def _is_below(link: Path, folder: Path) -> bool:
    return folder.resolve() in link.resolve().parents
