"""What `up` decides before anything runs: the model, the ports, the command line."""

from __future__ import annotations

import json
import socket
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from mlserve import plugins
from mlserve.backend import Listen
from mlserve.errors import NotFound, UsageError
from mlserve.images import tiny_png
from mlserve.launch.launchers import launcher_for, launcher_named
from mlserve.launch.ports import PortRequest, is_free
from mlserve.launch.ports import choose as choose_ports
from mlserve.load_options import LoadOptions
from mlserve.model_choice import choose
from mlserve.serving import Serving
from mlserve.settings import AUTO, EMBEDDED
from mlserve.store import VersionPolicy

LATEST = VersionPolicy()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), VersionPolicy()),
        (("all",), VersionPolicy(serves_all=True)),
        (("3", "1", "3"), VersionPolicy((1, 3))),
        (("1", "0"), VersionPolicy((0, 1))),
    ],
)
def test_versions_are_read(texts: tuple[str, ...], expected: VersionPolicy) -> None:
    assert VersionPolicy.parse(texts) == expected


@pytest.mark.parametrize("texts", [("x",), ("-1",), ("1.5",), ("all", "1"), ("²",)])
def test_what_is_no_version_is_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"is not a version|is not a version number"):
        VersionPolicy.parse(texts)


def test_the_only_exported_model_is_the_default(export) -> None:
    base = export(version=1)
    export(version=12)

    found = choose(None, None, None, LATEST)

    assert (found.backend, found.model, found.base_path) == ("echo", "m", base)
    assert found.expected == (12,)
    assert found.takes_images


def test_of_several_models_one_has_to_be_named(export) -> None:
    export("m")
    export("n")

    with pytest.raises(UsageError, match=r"2 exported models fit: m \(echo\), n \(echo\)"):
        choose(None, None, None, LATEST)
    assert choose(None, "n", None, LATEST).model == "n"


def test_a_model_that_was_not_exported_is_named_with_those_that_were(export) -> None:
    export("m")

    with pytest.raises(NotFound, match=r"no model 'x' has been exported \(exported: m \(echo\)\)"):
        choose(None, "x", None, LATEST)


def test_a_version_that_is_not_there_is_named_with_those_that_are(export) -> None:
    export()

    with pytest.raises(NotFound, match=r"m has no version 7 \(there: 1\)"):
        choose(None, None, None, VersionPolicy((7,)))


def test_weights_count_as_random_when_those_of_a_served_version_are(export) -> None:
    export(version=1, is_random=True)
    export(version=2)

    assert not choose(None, None, None, LATEST).has_random_weights
    assert choose(None, None, None, VersionPolicy((1,))).has_random_weights


def test_a_folder_without_versions_gets_the_fix_told(tmp_path: Path) -> None:
    (tmp_path / "model" / "1" / "variables").mkdir(parents=True)

    with pytest.raises(NotFound, match="there is no folder"):
        choose(None, None, tmp_path / "absent", LATEST)
    with pytest.raises(NotFound, match="has no version folder such as") as caught:
        choose(None, None, tmp_path, LATEST)
    assert caught.value.hint is not None
    assert str(tmp_path / "1") in caught.value.hint
    with pytest.raises(NotFound, match="has no version folders in it") as caught:
        choose(None, None, tmp_path / "model" / "1", LATEST)
    assert caught.value.hint is not None
    assert f"--path {tmp_path / 'model'} --version 1" in caught.value.hint


def test_a_file_in_place_of_a_folder_is_for_export(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()

    with pytest.raises(NotFound, match="is a file, not a folder of version folders") as caught:
        choose(None, None, tmp_path / "m.onnx", LATEST)
    assert caught.value.hint is not None
    assert f"mlserve export --model NAME --weights {tmp_path / 'm.onnx'} " in caught.value.hint


@pytest.mark.parametrize(
    ("file", "backend"),
    [
        ("saved_model.pb", "tfserving"),
        ("saved_model.pbtxt", "tfserving"),
        ("model.onnx", "onnxruntime"),
        ("other.onnx", "onnxruntime"),
        ("echo.json", "echo"),
    ],
)
def test_the_files_in_a_version_folder_choose_the_backend(
    tmp_path: Path, file: str, backend: str
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "labels.txt").touch()
    (tmp_path / "m" / "2").mkdir()
    (tmp_path / "m" / "2" / file).touch()

    assert choose(None, None, tmp_path / "m", LATEST).backend == backend
    assert choose(backend, None, tmp_path / "m", LATEST).backend == backend
    other = "echo" if backend != "echo" else "tfserving"
    with pytest.raises(UsageError) as caught:
        choose(other, None, tmp_path / "m", LATEST)
    assert caught.value.message == (
        f"{tmp_path / 'm' / '2'} holds a model for the backend {backend!r}, not for {other!r}"
    )


def test_the_manifest_says_more_than_the_files(export) -> None:
    base = export("m")
    (base / "1" / "saved_model.pb").touch()

    assert choose(None, None, base, LATEST).backend == "echo"
    with pytest.raises(UsageError, match="for the backend 'echo', not for 'tfserving'"):
        choose("tfserving", None, base, LATEST)


def test_files_of_two_backends_leave_the_choice_to_the_user(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    for name in ("saved_model.pb", "model.onnx"):
        (tmp_path / "m" / "1" / name).touch()

    with pytest.raises(UsageError, match="of several backends: onnxruntime, tfserving"):
        choose(None, None, tmp_path / "m", LATEST)
    assert choose("onnxruntime", None, tmp_path / "m", LATEST).backend == "onnxruntime"


def test_files_of_no_backend_are_told_with_those_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)

    with pytest.raises(NotFound, match=r"no file that an installed .*; onnxruntime: \*\.onnx; "):
        choose(None, None, tmp_path / "m", LATEST)


@pytest.mark.parametrize(
    ("backend", "model", "hint"),
    [
        ("onnx", None, "did you mean --backend onnxruntime? choose one with --backend; "),
        ("onnx", "m", "did you mean --backend onnxruntime? "),
        ("models", None, "choose one with --backend; "),
        (None, None, "export it: mlserve export --backend tfserving --model inception_v3; "),
        ("onnxruntime", None, "export it: mlserve export --backend onnxruntime --model incep"),
        (None, "efficientnet", "did you mean mlserve export --model efficientnet_lite0? for your"),
        (None, "efficientnet_lite0", "export it: mlserve export --backend tfserving --model eff"),
        (None, "mine", "for your own model: mlserve export --model mine --weights FILE --labels "),
        ("echo", "mine", "for your own model: mlserve export --backend echo --model mine --weig"),
    ],
)
def test_the_way_on_from_nothing_exported_can_be_gone(
    backend: str | None, model: str | None, hint: str
) -> None:
    with pytest.raises(NotFound) as caught:
        choose(backend, model, None, LATEST)

    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


def test_an_exported_model_that_was_probably_meant_is_named(export) -> None:
    export("defects")

    with pytest.raises(NotFound) as caught:
        choose(None, "defect", None, LATEST)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean --backend echo --model defects? else ")


def test_a_store_is_a_folder_of_exported_models(export, home: Path, tmp_path: Path) -> None:
    base = export("m")
    store = tmp_path / "store"
    (home / "data" / "models").rename(store)

    found = choose(None, None, None, LATEST, store)

    assert found.base_path == store / base.relative_to(home / "data" / "models")
    with pytest.raises(UsageError, match="--path names a model's folder and --store a folder of"):
        choose(None, None, found.base_path, LATEST, store)


def test_a_folder_whose_name_is_no_model_name_needs_one(tmp_path: Path) -> None:
    (tmp_path / "my model" / "1").mkdir(parents=True)

    with pytest.raises(UsageError, match="'my model'"):
        choose("echo", None, tmp_path / "my model", LATEST)
    assert choose("echo", "mine", tmp_path / "my model", LATEST).model == "mine"


def test_the_embedded_server_is_plain_data(export) -> None:
    base = export(version=1)
    export(version=2)
    model = replace(choose(None, None, None, VersionPolicy((1, 2))), options=LoadOptions(threads=3))
    serving = Serving((model,))

    assert launcher_for([plugins.backend("echo")], serving, AUTO) == EMBEDDED
    started = launcher_named(EMBEDDED).command(serving, Listen("0.0.0.0", 1, 2))

    assert started.argv == (
        *(sys.executable, "-P", "-m", "mlserve.server", "--backend", "echo", "--model=m"),
        *("--base-path", str(base), "--version", "1", "2", "--threads=3"),
        *("--host", "0.0.0.0", "--grpc-port", "1", "--rest-port", "2"),
    )


def test_ports_that_were_not_asked_for_come_in_free_pairs() -> None:
    taken = range(8500, 8504)

    listen = choose_ports(PortRequest("127.0.0.1"), taken)

    assert listen.grpc_port >= 8504
    assert listen.rest_port == listen.grpc_port + 1


def test_port_0_is_any_free_port() -> None:
    listen = choose_ports(PortRequest("127.0.0.1", 0, 0))

    assert listen.grpc_port != listen.rest_port
    assert is_free("127.0.0.1", listen.grpc_port)


def test_a_port_that_was_asked_for_stays_and_the_other_one_moves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    listen = choose_ports(PortRequest("127.0.0.1", port, None))

    assert listen.grpc_port == port
    assert not PortRequest("127.0.0.1", port, None).is_fixed
    assert PortRequest("127.0.0.1", port, 1).is_fixed


def test_a_taken_port_is_refused_and_so_is_one_of_another_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is taken by "):
            choose_ports(PortRequest("127.0.0.1", None, port))
    with pytest.raises(UsageError, match=f"port {port} is taken"):
        choose_ports(PortRequest("127.0.0.1", port, None), [port])


def test_one_port_for_both_is_refused() -> None:
    with pytest.raises(UsageError, match="port 9000 is given for both"):
        choose_ports(PortRequest("127.0.0.1", 9000, 9000))


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_a_host_that_is_not_this_machine_is_named(host: str) -> None:
    with pytest.raises(UsageError, match=f"cannot listen on {host} port"):
        choose_ports(PortRequest(host))


def test_the_first_real_request_is_a_whole_png() -> None:
    png = tiny_png()

    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    data = png[png.index(b"IDAT") + 4 : png.index(b"IEND") - 8]
    assert len(zlib.decompress(data)) == 8 * (1 + 8 * 3)


def test_a_version_whose_background_class_was_a_guess_is_not_served(export) -> None:
    manifest = export() / "1" / "mlserve.json"
    data = json.loads(manifest.read_text())
    data["pipeline"] |= {"classes": 3, "class_offset": 1}
    manifest.write_text(json.dumps(data))

    with pytest.raises(UsageError, match="the labels may be off by one") as caught:
        choose(None, None, None, LATEST)
    assert "with --background if class 0 is a background class" in str(caught.value.hint)
