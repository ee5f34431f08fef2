"""The container of the manifests, run as a process, with the probes and signals of a kubelet."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve.client import Client
from mlserve.deploy.kubernetes.manifests import manifest_files
from mlserve.deploy.kubernetes.scaling import CAPACITY, METRICS, WORK_STAGES
from mlserve.deploy.kubernetes.values import ClusterSetup
from mlserve.errors import MlserveError
from mlserve.testing.processes import wait_until
from tests.deploy.conftest import MakePlan
from tests.harness.deployed import (
    Manifest,
    Pod,
    container_of,
    put_config_map,
    read_manifests,
    running_container,
)
from tests.harness.echo import PHOTO, EchoModel, manifest
from tests.harness.ports import free_ports

pytestmark = pytest.mark.server


@pytest.fixture
def plan_fields() -> dict[str, Any]:
    grpc_port, rest_port = free_ports(2)
    return {"grpc_port": grpc_port, "rest_port": rest_port}


def _pod_spec(found: dict[str, Manifest]) -> Manifest:
    spec = found["Deployment"]["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


@pytest.fixture
def mounts(model: EchoModel) -> dict[str, Path]:
    """What stands for /models, where the image has the model."""
    return {"/models": model.base_path.parent}


@pytest.fixture
def slow(model: EchoModel) -> EchoModel:
    """A model whose calls take 0.3 s each."""
    model.put(4, manifest=manifest("flowers"), delay=0.3)
    return model


def test_the_probes_follow_the_server_from_start_to_end(
    make_plan: MakePlan, plan_fields: dict[str, Any], mounts: dict[str, Path], slow: EchoModel
) -> None:
    found = read_manifests(manifest_files(make_plan(**plan_fields), ClusterSetup()))
    spec = _pod_spec(found)
    grace = spec["terminationGracePeriodSeconds"]
    after_pre_stop = grace - container_of(spec)["lifecycle"]["preStop"]["sleep"]["seconds"]

    with running_container(container_of(spec), mounts) as pod:
        pod.wait_started()
        assert pod.probe("readinessProbe") == 200
        assert pod.probe("livenessProbe") == 200
        answers: list[str] = []
        before = len(slow.runs())
        with Client(f"127.0.0.1:{plan_fields['grpc_port']}", model="flowers") as client:
            asking = threading.Thread(
                target=lambda: answers.append(client.predict(PHOTO, timeout=10).label)
            )
            asking.start()
            wait_until(lambda: len(slow.runs()) > before)
            pod.terminate()
            statuses = _statuses_until_the_end(pod)
            asking.join()
        ended = pod.process.wait(after_pre_stop)

    assert answers == ["sorrel"]  # the request in flight was answered
    assert ended == 0
    assert 200 not in statuses["readinessProbe"]
    # A pod that drains is not to be killed for it: alive, or gone.
    assert statuses["livenessProbe"] <= {200, None}


def _statuses_until_the_end(pod: Pod) -> dict[str, set[int | None]]:
    """Return what the probes get from when the drain has begun until nothing listens."""
    wait_until(lambda: "stopping:" in pod.log())
    seen: dict[str, set[int | None]] = {"readinessProbe": set(), "livenessProbe": set()}
    while pod.process.poll() is None:
        for name, statuses in seen.items():
            statuses.add(pod.probe(name))
    return seen


def _metrics(pod: Pod) -> str:
    return httpx.get(f"{pod.rest}/metrics").text


def test_the_metrics_that_scale_are_on_the_page_and_move(
    make_plan: MakePlan, plan_fields: dict[str, Any], mounts: dict[str, Path], slow: EchoModel
) -> None:
    plan = make_plan(replicas="1..3", **plan_fields)
    found = read_manifests(manifest_files(plan, ClusterSetup()))
    [endpoint] = found["ServiceMonitor"]["spec"]["endpoints"]

    with running_container(container_of(_pod_spec(found)), mounts) as pod:
        pod.wait_started()
        page = httpx.get(f"{pod.rest}{endpoint['path']}").text
        series = {line.split("{")[0].split(" ")[0] for line in page.splitlines()}
        assert {metric.series for metric in METRICS if metric.series.endswith("_total")} <= series
        for reason in CAPACITY:
            assert f'mlserve_refused_total{{reason="{reason}"}} 0.0' in page
        assert _value(page, "mlserve_predicted_wait_seconds") == 0

        with Client(f"127.0.0.1:{plan_fields['grpc_port']}", model="flowers") as client:
            for _ in range(2):  # until it is known what a call takes
                client.predict(PHOTO, timeout=10)
            page = _metrics(pod)
            for stage in WORK_STAGES:
                assert any(
                    line.startswith("mlserve_stage_duration_seconds_sum{")
                    and f'stage="{stage}"' in line
                    for line in page.splitlines()
                )
            with _many_at_once(client, 12):
                waited = wait_until(
                    lambda: _value(_metrics(pod), "mlserve_predicted_wait_seconds") or None
                )
                assert 0.1 < waited < 12 * 0.3 * 3
        page = _metrics(pod)

    refused = sum(
        _value(page, f'mlserve_refused_total{{reason="{reason}"}}') for reason in CAPACITY
    )
    assert refused > 0
    assert _value(page, "mlserve_predicted_wait_seconds") == 0


class _many_at_once:  # noqa: N801 - used as a function
    """Requests with a second to spare each, sent together; ended at the end of the block."""

    def __init__(self, client: Client, count: int) -> None:
        self._threads = [threading.Thread(target=self._ask, args=(client,)) for _ in range(count)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join()

    def _ask(self, client: Client) -> None:
        try:
            client.predict(PHOTO, timeout=2)
        except MlserveError:
            return


def _value(page: str, series: str) -> float:
    [line] = [line for line in page.splitlines() if line.startswith(f"{series} ")]
    return float(line.rpartition(" ")[2])


@pytest.fixture
def followed(
    make_plan: MakePlan,
    plan_fields: dict[str, Any],
    mounts: dict[str, Path],
    model: EchoModel,
    tmp_path: Path,
) -> Iterator[tuple[Pod, Path, str]]:
    """A pod that follows its ConfigMap, the folder of that, and its text."""
    model.put(2, manifest=manifest("flowers"))
    plan = make_plan(versions=(3,), **plan_fields)
    setup = ClusterSetup(config_map=True, artifacts="pvc://claim/flowers")
    found = read_manifests(manifest_files(plan, setup))
    volume = tmp_path / "config"
    data = found["ConfigMap"]["data"]
    text = data["mlserve.toml"].replace("/models", str(mounts["/models"]))
    put_config_map(volume, {"mlserve.toml": text}, 1)
    places = {"/etc/mlserve": volume, "/models/flowers": model.base_path}
    with running_container(container_of(_pod_spec(found)), places) as pod:
        pod.wait_started()
        yield pod, volume, text


def test_a_changed_config_map_is_followed_without_a_restart(
    followed: tuple[Pod, Path, str],
) -> None:
    pod, volume, text = followed
    assert _versions(pod) == {"3"}

    put_config_map(volume, {"mlserve.toml": text.replace("[3]", "[2, 3]")}, 2)

    wait_until(lambda: _versions(pod) == {"2", "3"})
    assert pod.process.poll() is None
    assert pod.probe("readinessProbe") == 200
    pod.process.send_signal(signal.SIGTERM)
    assert pod.process.wait(60) == 0


def test_a_config_map_that_is_wrong_changes_nothing(followed: tuple[Pod, Path, str]) -> None:
    pod, volume, text = followed

    put_config_map(volume, {"mlserve.toml": text.replace("version", "versoin")}, 2)

    wait_until(lambda: "mlserve_config_in_force 0.0" in _metrics(pod))
    assert _versions(pod) == {"3"}
    assert pod.probe("readinessProbe") == 200


def _versions(pod: Pod) -> set[str]:
    status = httpx.get(f"{pod.rest}/v1/models/flowers").json()["model_version_status"]
    return {each["version"] for each in status if each["state"] == "AVAILABLE"}


def test_a_token_lets_the_monitor_in_and_probes_need_none(
    make_plan: MakePlan, plan_fields: dict[str, Any], mounts: dict[str, Path], access: Path
) -> None:
    plan = make_plan(token_file=access / "token", **plan_fields)
    found = read_manifests(manifest_files(plan, ClusterSetup()))
    container = container_of(_pod_spec(found))
    # The Secret, as the command in the manifest makes it: its keys are the names of settings.
    (access / "token_file").write_bytes((access / "token").read_bytes())

    with running_container(container, {**mounts, "/run/mlserve": access}) as pod:
        pod.wait_started()
        assert pod.probe("livenessProbe") == 200
        assert httpx.get(f"{pod.rest}/metrics").status_code == 401
        headers = {"Authorization": "Bearer s3cret-of-this-test"}
        assert httpx.get(f"{pod.rest}/metrics", headers=headers).status_code == 200


def test_a_pod_without_its_model_ends_with_the_reason(
    make_plan: MakePlan, plan_fields: dict[str, Any], tmp_path: Path
) -> None:
    found = read_manifests(manifest_files(make_plan(**plan_fields), ClusterSetup()))

    with running_container(container_of(_pod_spec(found)), {"/models": tmp_path / "no"}) as pod:
        assert pod.process.wait(60) != 0
        assert "the base path" in pod.log()
