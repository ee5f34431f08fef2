"""The names of `mlserve` that others may import: a change here is a change for every caller."""

from __future__ import annotations

import inspect

import pytest

import mlserve

CLIENT = {"AsyncClient", "Client", "Retries", "Tls"}
ANSWERS = {
    *("ModelMetadata", "Outputs", "Prediction", "Retry", "Score", "ServerLoad", "Timings"),
    "VersionStatus",
}
ERRORS = {
    *("AccessDenied", "BuildFailed", "DeadlineExceeded", "ExportError", "InferenceFailed"),
    *("InputTooLarge", "InvalidInput", "MlserveError", "ModelLoadFailed", "NotAllowed"),
    *("NotAnImage", "NotFound", "NotSupported", "NotYet", "Overloaded", "PluginError"),
    *("Transient", "Unavailable", "UsageError"),
}


def test_the_names_are_these_and_no_others() -> None:
    """A name that is missing breaks callers; one that slips in has to be kept for them."""
    assert set(mlserve.__all__) == CLIENT | ANSWERS | ERRORS | {"Deadline", "__version__"}
    assert mlserve.__all__ == sorted(mlserve.__all__)


@pytest.mark.parametrize("name", sorted(set(mlserve.__all__) - {"__version__"}))
def test_a_name_can_be_imported_and_has_a_docstring(name: str) -> None:
    found = getattr(mlserve, name)

    assert inspect.isclass(found)
    assert found.__name__ == name
    # A dataclass without a docstring has its signature for one.
    assert found.__doc__
    assert not found.__doc__.startswith(f"{name}(")


def test_the_public_methods_of_the_clients_have_docstrings() -> None:
    for client in (mlserve.Client, mlserve.AsyncClient):
        for name, method in inspect.getmembers(client):
            if not name.startswith("_"):
                assert inspect.getdoc(method), f"{client.__name__}.{name}"


def test_every_error_of_the_tree_is_exported() -> None:
    from mlserve import errors

    tree = {
        name
        for name, found in vars(errors).items()
        if inspect.isclass(found) and issubclass(found, errors.MlserveError)
    }
    assert tree == ERRORS
