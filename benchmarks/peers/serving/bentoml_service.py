"""The comparison's work as a BentoML service. SERVICE holds its settings as JSON, `{}` for none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import bentoml
import work
from bentoml.validators import ContentType


@bentoml.service(**json.loads(os.environ["SERVICE"]))
class Work:
    """One model a worker; a sync method runs on the worker's threads."""

    def __init__(self) -> None:
        self.classify = work.load()

    @bentoml.api
    def predict(self, image: Annotated[Path, ContentType("image/jpeg")], /) -> dict[str, Any]:
        """Answer after the work."""
        return work.answer(*self.classify(image.read_bytes()))
