"""`mlserve deploy` as users call it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlserve.settings import DEFAULT_BACKEND
from tests.harness.command import Command
from tests.harness.echo import EchoModel

pytestmark = pytest.mark.server


@pytest.fixture
def mlserve(tmp_path: Path) -> Any:
    command = Command(tmp_path, {"MLSERVE_HOME": str(tmp_path / "home")})
    yield command
    command.end()


def test_a_folder_is_written_and_written_again(
    mlserve: Command, model: EchoModel, tmp_path: Path
) -> None:
    call = ("deploy", "kubernetes", "--path", model.base_path, "--cpus", 2, "--output-dir", "k8s")

    first = mlserve.json(*call, "--replicas", "2..6", "--namespace", "vision")
    assert {Path(path).name for path in first["files"]} >= {"deployment.yaml", "hpa.yaml"}
    second = mlserve(*call, "--threads", 1)

    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines()[0] == "k8s/deployment.yaml"
    assert "next     kubectl apply -k k8s" in second.stderr
    deployment = yaml.safe_load((tmp_path / "k8s" / "deployment.yaml").read_text())
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "mlserve-echo-flowers:3"
    assert "--threads=1" in container["args"]
    assert container["resources"]["limits"]["cpu"] == "2"
    assert deployment["spec"]["replicas"] == 1


def test_an_exported_model_is_taken_from_the_store(mlserve: Command, model: EchoModel) -> None:
    stored = mlserve.folder / "home" / "data" / "models" / "echo"
    stored.mkdir(parents=True)
    model.base_path.rename(stored / "flowers")

    done = mlserve("deploy", "helm", "--model", "flowers", "--print")

    assert done.returncode == 0, done.stderr
    assert "# values.yaml" in done.stdout


def test_other_exports_that_may_have_been_meant_are_told(
    mlserve: Command, model: EchoModel
) -> None:
    """What is written is for the default backend, though the other may be the last export."""
    store = mlserve.folder / "home" / "data" / "models"
    for backend in ("echo", DEFAULT_BACKEND):
        shutil.copytree(model.base_path, store / backend / "flowers")
    told = f"this is the export for {DEFAULT_BACKEND}; there is also --backend echo --model flowers"

    for call in (
        ("deploy", "compose", "--print"),
        ("build", "--artifact-only", "--file-only", "image"),
    ):
        done = mlserve(*call, "--model", "flowers")
        assert done.returncode == 0, done.stderr
        assert told in " ".join(done.stderr.split()), call
        named = mlserve(*call, "--backend", "echo")
        assert "this is the export" not in named.stderr


@pytest.mark.parametrize("tag", [None, "registry.example/flowers:3", "me/flowers:3"])
def test_the_image_of_the_files_is_pushed_to_a_registry(
    mlserve: Command, model: EchoModel, tag: str | None
) -> None:
    store = mlserve.folder / "home" / "data" / "models"
    shutil.copytree(model.base_path, store / "echo" / "flowers")
    named = () if tag is None else ("--tag", tag)
    done = mlserve(
        *("build", "--backend", "echo", "--artifact-only", "--file-only", "image"), *named
    )

    assert done.returncode == 0, done.stderr
    version = done.stdout.split()[0].rpartition(":")[2]
    pushed = tag or f"REGISTRY/mlserve-artifact-echo-flowers:{version}"
    assert f"next     crane push image {pushed}\n" in done.stderr


def test_the_secrets_command_comes_first_and_no_token_is_printed(
    mlserve: Command, model: EchoModel, access: Path
) -> None:
    done = mlserve(
        *("deploy", "kubernetes", "--path", model.base_path, "--token-file", access / "token"),
        *("--namespace", "vision", "--print"),
    )

    assert done.returncode == 0
    assert "first    kubectl create secret generic flowers-access --namespace=vision" in done.stderr
    assert "s3cret-of-this-test" not in done.stdout + done.stderr


def test_what_is_printed_is_for_kubectl(mlserve: Command, model: EchoModel) -> None:
    call = ("deploy", "kubernetes", "--path", model.base_path, "--replicas", "1..2", "--print")

    done = mlserve(*call)
    texts = mlserve.json(*call)["texts"]

    printed = [each["kind"] for each in yaml.safe_load_all(done.stdout)]
    assert "Deployment" in printed
    assert "Kustomization" not in printed
    assert "left out: kustomization.yaml and prometheus-adapter-values.yaml" in done.stderr
    assert {"deployment.yaml", "kustomization.yaml", "prometheus-adapter-values.yaml"} <= set(texts)


def test_files_of_an_earlier_call_are_named(
    mlserve: Command, model: EchoModel, tmp_path: Path
) -> None:
    call = ("deploy", "helm", "--path", model.base_path, "--output-dir", "chart")
    assert mlserve(*call, "--config-map").returncode == 0
    (tmp_path / "chart" / "templates" / "mine.yaml").write_text("mine: true\n")

    done = mlserve(*call)

    left = [line for line in done.stderr.splitlines() if "warning" in line]
    assert left == [
        "warning: chart/templates/configmap.yaml is from an earlier mlserve deploy helm: remove it"
    ]


@pytest.mark.parametrize(
    ("arguments", "said", "hinted"),
    [
        (["kubernetes"], "nowhere to write", "--output-dir DIR"),
        (["kubernetes", "--print", "--output-dir", "x"], "exclude each other", "--print"),
        (["helm", "--print", "--replicas", "4..2"], "'4..2' is not a valid", "1..4"),
        (["kubernetes", "--print", "--cpus", "1", "--threads", "4"], "--threads 4", "--cpus 4"),
        (["kubernetes", "--print", "--artifacts", "pvc://c"], "needs --image", "--target runtime"),
        (["kserve", "--print"], "from a storage", "--artifacts pvc://"),
        (["kubernetes", "--print", "--memory", "2GB"], "'2GB' is not a valid", "2Gi"),
        (["kubernetes", "--print", "--device", "cpu"], "--device", ""),
    ],
)
def test_wrong_calls_are_told(
    mlserve: Command, model: EchoModel, arguments: list[str], said: str, hinted: str
) -> None:
    done = mlserve("deploy", *arguments, "--path", model.base_path)

    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert said in done.stderr
    assert hinted in done.stderr


def test_a_file_of_somebody_else_stays(mlserve: Command, model: EchoModel, tmp_path: Path) -> None:
    (tmp_path / "pdb.yaml").write_text("mine: true\n")

    done = mlserve("deploy", "kubernetes", "--path", model.base_path, "--output-dir", ".")

    assert done.returncode == 2
    assert "pdb.yaml was not written by mlserve deploy" in done.stderr
    assert not (tmp_path / "deployment.yaml").exists()
