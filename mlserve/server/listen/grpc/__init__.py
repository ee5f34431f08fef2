"""The gRPC port's own speech: HTTP/2 (RFC 9113) and gRPC's protocol on top (PROTOCOL-HTTP2.md).

A connection (`connection`) reads frames (`frames`) and opens calls; a call (`call`) is judged by
its headers (`head`) before a byte of its message (`messages`) is taken, and its answer waits in the
connection's `outbox` for the caller's windows. `connections` has what all connections share.
"""
