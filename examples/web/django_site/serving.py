"""The model server, which the views ask and `asgi.py` mounts."""

import os

import mlserve.server

serving = mlserve.server.mount(os.environ.get("MODEL", "efficientnet_lite0"))
