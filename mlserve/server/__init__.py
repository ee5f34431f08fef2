"""The server kit: turns any Runner into a server of two protocols, each on gRPC and on REST.

    TensorFlow Serving v1    tfs.grpc, tfs.rest ─┐
                                                 ├─> Engine ──> Runner.run
    Open Inference v2        oip.grpc, oip.rest ─┘

Started as `python -m mlserve.server`; `app` puts the parts together.
"""

import os

# gRPC's own lines tell of every stranger whose handshake failed, and are neither our text nor JSON.
# It looks here once, when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
