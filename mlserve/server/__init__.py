"""The server kit: serves any Runner over two protocols, each on gRPC and on REST.

    TensorFlow Serving v1    tfs.grpc, tfs.rest ─┐
                                                 ├─> Engine ──> Runner.run
    Open Inference v2        oip.grpc, oip.rest ─┘

Started as `python -m mlserve.server`; `app` puts the parts together.
"""

import os

# gRPC logs every failed handshake itself, in a format that is neither our text nor JSON. It reads
# this variable once, on import.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
