"""Open a fitted estimator: from the user's file for the export, from an artifact to serve it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn

from mlserve.artifact import Artifact, digest_of
from mlserve.errors import ExportError, MlserveError, reason_of
from mlserve.load_options import LoadOptions
from mlserve.sources import Fact, Facts, How, ModelRequest, Reference, TensorModel
from mlserve.tensors import DEFAULT_SIGNATURE, DType, TensorSpec
from mlserve_sklearn import estimator_file
from mlserve_sklearn.boosting import names_of_lightgbm
from mlserve_sklearn.estimator_file import SCIKIT_LEARN
from mlserve_sklearn.inputs import Inputs, inputs_of, with_type
from mlserve_sklearn.parts import parts_of
from mlserve_sklearn.probes import probe_rows
from mlserve_sklearn.refusals import refused_numbers
from mlserve_sklearn.runner import SklearnRunner, task_of
from mlserve_sklearn.skops_files import skops_io

if TYPE_CHECKING:
    from mlserve.backend import Tensors

SKOPS_FILE = "model.skops"
_LISTED = 8
_FIRST = 8
"""The rows that are tried one by one, before many at once."""


@dataclass(frozen=True, slots=True)
class OpenedEstimator:
    """The `content` of a TensorModel with the framework "sklearn".

    `estimator` is the fitted object. `runner.answers(inputs)` returns its outputs by name, and
    `probes` are inputs, some hundred rows that it takes, for which a conversion must give the same.
    `parts(estimator)` yields all the objects that an estimator is made of. `data` and `file_name`
    are the file that the sklearn backend writes.
    """

    estimator: Any
    runner: SklearnRunner
    probes: Tensors
    data: bytes
    file_name: str

    @staticmethod
    def parts(estimator: Any) -> Iterator[Any]:
        """Yield the estimator and all the objects in it."""
        return (part for part, _ in parts_of(estimator))


def open_estimator(request: ModelRequest) -> TensorModel:
    """Open the user's file. Raises ExportError, as `read_estimator` and `inputs_of` do."""
    path = request.weights_path
    if path is None:
        raise ValueError("the sklearn source was asked to open a request without a file")
    estimator, saved = estimator_file.read_estimator(
        path,
        allow_pickle=request.allow_pickle,
        trusted=request.trusted_types,
        allow_mismatch=request.allow_version_mismatch,
    )
    runner, probes = _runner(estimator, request.inputs, is_export=True)
    data = path.read_bytes()
    content, kept = _content(runner, probes, path.suffix, data, request.trusted_types)
    facts: dict[str, Fact] = {"inputs": _how_known(runner.inputs), **kept}
    names = [column.name for column in runner.inputs.columns]
    if renamed := [name for name in names_of_lightgbm(estimator) if "_" in name and name in names]:
        why = f"LightGBM keeps each space in the name of a column as _: {_few(renamed)}"
        facts["names"] = Fact(How.FOUND, why)
    classes = _classes(estimator)
    if classes:
        facts["classes"] = Fact(How.FOUND, _few(map(str, classes)))
    missing = {c.name: str(c.missing) for c in runner.inputs.columns if c.missing != ""}
    if missing:
        facts["missing"] = Fact(How.FOUND, f'"" stands for a missing value in {_few(missing)}')
    columns = {"x": tuple(c.name for c in runner.inputs.columns)}
    return TensorModel(
        name=request.model,
        content=content,
        framework="sklearn",
        signatures=(runner.signatures[DEFAULT_SIGNATURE],),
        source=f"file {path.name}",
        weights_digest=digest_of(data),
        facts=facts,
        columns=columns if runner.inputs.is_frame and runner.inputs.is_matrix else {},
        libraries=estimator_file.libraries_of(estimator) | saved,
        details={
            "task": task_of(estimator),
            "classes": classes,
            "missing": missing,
            "texts": _known_texts(runner.inputs),
            "refused_numbers": refused_numbers(
                runner.inputs, _part(probes, 0, 1), lambda row: _takes(runner, row, 0, 1)
            ),
        },
        reference=Reference(
            f"scikit-learn {sklearn.__version__}", lambda _, inputs: runner.answers(inputs), probes
        ),
    )


def load_estimator(artifact: Artifact, file: Path, options: LoadOptions) -> SklearnRunner:
    """Load an estimator's file to be served. Raises ExportError, as `open_estimator` does."""
    trusted = [name.strip() for name in (options.trusted_types or "").split(",") if name.strip()]
    allow = options.allow_version_mismatch
    saved = artifact.manifest.libraries if artifact.manifest else {}
    estimator_file.require_same(SCIKIT_LEARN, saved, allow_mismatch=allow)
    estimator, _ = estimator_file.read_estimator(
        file, allow_pickle=options.allow_pickle, trusted=trusted, allow_mismatch=allow
    )
    for library in estimator_file.libraries_of(estimator):
        estimator_file.require_same(library, saved, allow_mismatch=allow)
    given = artifact.manifest.signatures[0].inputs if artifact.manifest else ()
    return _runner(estimator, given, is_export=False)[0]


def _runner(
    estimator: Any, given: Sequence[TensorSpec], *, is_export: bool
) -> tuple[SklearnRunner, Tensors]:
    """Return a runner and the probe rows that it takes; a few, but for the export.

    Raises ExportError for an estimator without predict, or that takes no row.
    """
    if not callable(getattr(estimator, "predict", None)):
        raise ExportError(
            f"the file holds a {type(estimator).__name__}, which has no predict",
            hint="save the fitted estimator or pipeline itself; only what can predict is served "
            "(LocalOutlierFactor needs novelty=True)",
        )
    inputs = inputs_of(estimator, given)
    tried = _tried(estimator, inputs, is_given=bool(given))
    for runner, is_short in product(tried, (False,) if is_export else (True, False)):
        probes = _taken(runner, probe_rows(estimator, runner.inputs, is_short=is_short))
        if len(next(iter(probes.values()))):
            if is_export:
                runner.inputs = _with_found_numbers(runner, probes)
            runner.learn(probes)
            return runner, probes
    raise _refused(estimator, inputs)


def _tried(estimator: Any, inputs: Inputs, *, is_given: bool) -> Iterator[SklearnRunner]:
    """Yield runners to try: columns of which nothing is known are numbers, then strings.

    A matrix of numbers is float64, then float32.
    """
    yield SklearnRunner(estimator, inputs)
    if not is_given and inputs.is_matrix and inputs.matrix_dtype is DType.FLOAT64:
        # Some take only the type that they were fitted on, such as k-means.
        yield SklearnRunner(estimator, replace(inputs, matrix_dtype=DType.FLOAT32))
    unknown = [column.name for column in inputs.columns if column.how is How.ASSUMED]
    if is_given or not unknown:
        return
    for names in (unknown, *([name] for name in unknown)):  # all of them, or one
        told = reduce(lambda each, name: with_type(each, name, DType.BYTES), names, inputs)
        yield SklearnRunner(estimator, told)


def _with_found_numbers(runner: SklearnRunner, probes: Tensors) -> Inputs:
    """Return the inputs; columns that are ASSUMED to be numbers are FOUND if no string is taken."""
    inputs, row = runner.inputs, runner.inputs.split(_part(probes, 0, 1))
    assumed = [column for column in inputs.columns if column.how is How.ASSUMED]
    # An array has one type, so that one column tells of all.
    for columns in ([column] for column in assumed) if inputs.is_frame else filter(None, [assumed]):
        with_text = copy(runner)
        with_text.inputs = with_type(runner.inputs, columns[0].name, DType.BYTES)
        text = np.array([b"a"], dtype=object)
        if not _takes(with_text, with_text.inputs.joined({**row, columns[0].name: text}), 0, 1):
            for column in columns:
                inputs = with_type(inputs, column.name, column.dtype)
    return inputs


def _refused(estimator: Any, inputs: Inputs) -> ExportError:
    """Return the error for an estimator that takes none of the probe rows, with its own words."""
    why = ""
    try:
        SklearnRunner(estimator, inputs).answers(_part(probe_rows(estimator, inputs), 0, 1))
    except MlserveError as error:
        why = error.message
    columns = ", ".join(column.name for column in inputs.columns[:_LISTED])
    return ExportError(
        f"{type(estimator).__name__} takes none of the rows that were tried, with the inputs "
        f"{', '.join(map(str, inputs.specs[:_LISTED]))}: {why}",
        hint=f"say what each column is: --input NAME:DTYPE[?] ({columns})",
    )


def _taken(runner: SklearnRunner, probes: Tensors) -> Tensors:
    """Return the rows that the estimator takes; none if it takes none of the first."""
    count = len(next(iter(probes.values())))
    is_taking = any(_takes(runner, probes, i, i + 1) for i in range(min(_FIRST, count)))
    taken, open_ends = list[int](), [(0, count)] if is_taking else []
    while open_ends:
        start, end = open_ends.pop()
        if _takes(runner, probes, start, end):
            taken += range(start, end)
        elif end - start > 1:
            middle = (start + end) // 2
            open_ends += [(start, middle), (middle, end)]
    return {name: array[sorted(taken)] for name, array in probes.items()}


def _takes(runner: SklearnRunner, probes: Tensors, start: int, end: int) -> bool:
    try:
        runner.answers(_part(probes, start, end))
    except MlserveError:
        return False
    return True


def _part(probes: Tensors, start: int, end: int) -> Tensors:
    return {name: array[start:end] for name, array in probes.items()}


def _content(
    runner: SklearnRunner, probes: Tensors, suffix: str, data: bytes, trusted: Sequence[str]
) -> tuple[OpenedEstimator, Facts]:
    """Return the content of the model: a pickle becomes skops if that gives the same answers."""
    estimator = runner.estimator
    if suffix == ".skops":
        return OpenedEstimator(estimator, runner, probes, data, SKOPS_FILE), {}
    try:
        rewritten = skops_io.dumps(estimator)
        copy = SklearnRunner(estimator_file.skops_loaded(rewritten, trusted), runner.inputs)
        if _same(runner.answers(probes), copy.answers(probes)):
            fact = Fact(How.FOUND, "rewritten as skops, which gives the same answers")
            content = OpenedEstimator(estimator, runner, probes, rewritten, SKOPS_FILE)
            return content, {"file": fact}
        why = "as skops it gives other answers"
    except Exception as error:  # noqa: BLE001 - whatever skops cannot do is why the pickle is kept
        why = f"skops cannot hold it: {reason_of(error)}"
    name = "model.joblib" if suffix == ".joblib" else "model.pkl"
    warning = "with --backend sklearn, serving needs --allow-pickle too"
    fact = Fact(How.FOUND, f"kept as a pickle: {why}", warning)
    return OpenedEstimator(estimator, runner, probes, data, name), {"file": fact}


def _same(ours: Tensors, theirs: Tensors) -> bool:
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[name], theirs[name], equal_nan=ours[name].dtype.kind == "f")
        for name in ours
    )


def _how_known(inputs: Inputs) -> Fact:
    """Return how the types of the columns are known."""
    by_how = {how: [column.name for column in inputs.columns if column.how is how] for how in How}
    if by_how[How.GIVEN]:
        return Fact(How.GIVEN, "by --input")
    if by_how[How.ASSUMED]:
        names = _few(by_how[How.ASSUMED])
        return Fact(How.ASSUMED, f"numbers in {names}, as nothing fitted says otherwise")
    return Fact(How.FOUND, "the types that its steps were fitted on")


def _known_texts(inputs: Inputs) -> dict[str, str]:
    """Return a category of each column of categories in text, for an example of a request."""
    return {
        column.name: str(column.seen[0])
        for column in inputs.columns
        if column.is_category and column.seen and column.dtype is DType.BYTES
    }


def _classes(estimator: Any) -> list[Any]:
    """Return the classes in the order of the scores, as JSON; for several targets one list each."""
    classes = getattr(estimator, "classes_", [])
    if isinstance(classes, list):
        return [_in_json(each) for each in classes]
    return _in_json(classes)


def _in_json(classes: Any) -> list[Any]:
    """Return classes as JSON has them; a date as the text that is its label."""
    array = np.asarray(classes)
    return list(array.astype(str).tolist() if array.dtype.kind in "mM" else array.tolist())


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_LISTED]) + (", ..." if len(listed) > _LISTED else "")
