"""The conformance suite: what every backend of mlserve has to do, as tests to inherit.

    from mlserve.testing import ConformsAsBackend, ConformsAsImageClassifier, ConformsAsServer

    class TestBackend(ConformsAsBackend): ...

A plugin's test module inherits each class once, and gives it what it asks for by overriding
fixtures: `backend_name` always, `classifier` for an image classifier or `model` for a model of
tensors, `divided` for `ConformsAsImageClassifier`, others where the defaults do not fit. A backend
that only serves inherits `ConformsAsLoader` in the place of `ConformsAsBackend`, and overrides
`artifact` in the place of the model. A fixture of the scope "class" is a class method. The classes
need pytest and Pillow: `pip install -e '<checkout of mlserve>[server,testing]'`.

`pytest --mlserve-backend NAME` runs `mlserve.testing.suite` on any installed backend.
"""

import pytest

# pytest rewrites only test modules by default: without this, failed assertions show no values.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{name}"
        for name in ("backend", "foreign", "image_classifier", "labels", "server", "tensor_server")
    )
)

from mlserve.testing.backend import ConformsAsBackend, ConformsAsLoader  # noqa: E402
from mlserve.testing.foreign import ServesForeignClients  # noqa: E402
from mlserve.testing.image_classifier import ConformsAsImageClassifier  # noqa: E402
from mlserve.testing.labels import KeepsLabels  # noqa: E402
from mlserve.testing.server import ConformsAsServer  # noqa: E402
from mlserve.testing.tensor_server import ConformsAsTensorServer  # noqa: E402

__all__ = [
    "ConformsAsBackend",
    "ConformsAsImageClassifier",
    "ConformsAsLoader",
    "ConformsAsServer",
    "ConformsAsTensorServer",
    "KeepsLabels",
    "ServesForeignClients",
]
