"""The client: asks a model server one question, with one total deadline.

    from mlserve.client import Client
    with Client("127.0.0.1:8500") as client:
        print(client.predict(Path("horse.jpg"), timeout=5).label)

It speaks TensorFlow Serving's API and the Open Inference Protocol, and detects which of them the
server supports. It imports no ML framework, and grpc only for an endpoint that needs it.

    client -> model_calls (one deadline; which API) -> session (which calls, in one API)
    session -> adapter (what to say; no I/O)
            -> transport (how to send it; no vendor)
"""

from mlserve.client.answers import ModelMetadata as ModelMetadata
from mlserve.client.answers import Prediction as Prediction
from mlserve.client.answers import Retry as Retry
from mlserve.client.answers import Score as Score
from mlserve.client.answers import ServerLoad as ServerLoad
from mlserve.client.answers import Timings as Timings
from mlserve.client.answers import VersionStatus as VersionStatus
from mlserve.client.async_client import AsyncClient as AsyncClient
from mlserve.client.client import Client as Client
from mlserve.client.endpoint import Tls as Tls
from mlserve.client.retries import Retries as Retries
