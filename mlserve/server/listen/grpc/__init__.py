"""The gRPC port's protocols: HTTP/2 (RFC 9113), and gRPC's own (PROTOCOL-HTTP2.md) on top.

From the socket inwards: a `connection` cuts what comes in into `frames`; its `streams` say what the
frames mean; each stream is a `call`, judged by its `headers` before a byte of its `messages` is
taken. What goes out waits in the `outbox` for the caller's windows. `server` finds the method and
has what all connections share; `service` makes methods of functions from bytes to bytes, which is
what a protocol gives it. `health` and `reflection` are services of our own.
"""
