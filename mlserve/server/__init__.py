"""The server kit: turns any Runner into a server of TensorFlow Serving's protocol.

    protocol adapter (tfs_grpc, tfs_rest) -> Engine.submit -> Runner.run

Started as `python -m mlserve.server`; `app` puts the parts together.
"""
