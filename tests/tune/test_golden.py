"""What is shown of the golden inputs that a server was asked."""

from __future__ import annotations

from mlserve.certificate.verdict import CaseVerdict, Verdict
from mlserve.load_options import LoadOptions
from mlserve.tune.golden import agreement_text, problem_text
from mlserve.tune.judge import Figures, Sample, Tried
from mlserve.tune.report import HEADER, _figures


def case(name: str, far: float, problem: str = "", *, changed: bool = False) -> CaseVerdict:
    return CaseVerdict(name, far, "scores", is_label_changed=changed, problem=problem)


VERDICT = Verdict(
    (
        case("a", 1e-6),
        case("b", 0.2, "scores differs by 0.2"),
        case("c", 0.3, "scores differs by 0.3", changed=True),
        case("d", 0.004, changed=True),
    )
)


def test_a_changed_label_does_not_agree_even_where_it_may_change() -> None:
    assert agreement_text(VERDICT) == "1/4, 0.3"
    assert agreement_text(None) == "-"


def test_the_farthest_is_named() -> None:
    assert problem_text(VERDICT) == (
        "2 of 4 golden inputs are answered wrong here, most c: scores differs by 0.3"
    )


def test_agreement_is_a_column_of_the_table_and_in_json() -> None:
    figures = Figures(100, 10, 10)
    tried = Tried(LoadOptions(), [Sample(figures, figures, None, 1.0, VERDICT)])
    assert dict(zip(HEADER[1:-1], _figures(tried), strict=True))["agreement"] == "1/4, 0.3"
    assert tried.samples[0].to_json()["golden"] == {
        "inputs": 4,
        "wrong": 2,
        "labels_changed": 2,
        "difference": 0.3,
    }
