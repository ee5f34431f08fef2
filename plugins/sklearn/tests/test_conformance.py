"""The scikit-learn backend passes the conformance suite of mlserve."""

from __future__ import annotations

import pytest

from mlserve.sources import TensorModel
from mlserve.testing import ConformsAsBackend, ConformsAsTensorServer

pytestmark = pytest.mark.framework


class _Sklearn:
    @pytest.fixture(scope="class")
    @classmethod
    def backend_name(cls) -> str:
        return "sklearn"

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, iris_model: TensorModel) -> TensorModel:
        return iris_model


class TestBackend(_Sklearn, ConformsAsBackend):
    pass


@pytest.mark.server
class TestServer(_Sklearn, ConformsAsTensorServer):
    pass
