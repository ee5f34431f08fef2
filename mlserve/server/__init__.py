"""The server kit: turns any Runner into a server of two protocols, each on gRPC and on REST.

    TensorFlow Serving v1    tfs_grpc, tfs_rest ─┐
                                                 ├─> Engine.submit ──> Runner.run
    Open Inference v2        oip_grpc, oip_rest ─┘

Started as `python -m mlserve.server`; `app` puts the parts together.
"""
