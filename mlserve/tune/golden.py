"""Ask a running server the golden inputs of its model, as a client does."""

from __future__ import annotations

from collections.abc import Callable

from mlserve.artifact import Artifact
from mlserve.certificate.golden import read_golden
from mlserve.certificate.verdict import Verdict, judge
from mlserve.client import Client
from mlserve.client.retries import ONCE
from mlserve.launch.records import ServerRecord
from mlserve.served_model import ServedModel
from mlserve.served_runner import ServedRunner

Examine = Callable[[ServerRecord], Verdict]


def examining(model: ServedModel, timeout: float) -> Examine | None:
    """Return what asks a server of the model; None if the version has no certificate.

    Each question has `timeout` seconds. Raises ModelLoadFailed for golden inputs that cannot be
    read.
    """
    artifact = Artifact.open(model.base_path, model.model, model.expected[-1])
    manifest = artifact.manifest
    if manifest is None or manifest.certificate is None:
        return None
    certificate, cases = manifest.certificate, read_golden(artifact.path)
    signatures = {signature.name: signature for signature in manifest.signatures}

    def examine(record: ServerRecord) -> Verdict:
        endpoint, version = record.grpc_endpoint, artifact.version
        with Client(
            endpoint, model=model.model, version=version, retries=ONCE, throttle=False
        ) as client:
            return judge(artifact, ServedRunner(client, signatures, timeout), cases, certificate)

    return examine


def agreement_text(verdict: Verdict | None) -> str:
    """Return in few characters how far the answers are from the reference's; `-` if not known."""
    if verdict is None:
        return "-"
    same = sum(not (case.problem or case.is_label_changed) for case in verdict.cases)
    return f"{same}/{len(verdict.cases)}, {verdict.difference:.1g}"


def problem_text(verdict: Verdict) -> str:
    """Say which golden inputs a verdict is about that does not hold, the farthest first."""
    problems = verdict.problems
    first = problems[0]
    return (
        f"{len(problems)} of {len(verdict.cases)} golden inputs are answered wrong here, most "
        f"{first.name}: {first.problem}"
    )
