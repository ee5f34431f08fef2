"""The gRPC port: HTTP/2 (RFC 9113), and gRPC over it (PROTOCOL-HTTP2.md).

From the socket inwards: a `connection` splits incoming data into `frames`; its `streams` interpret
them; each stream is a `call`, admitted by its `headers` before any of its `messages` is read.
Answers wait in the `outbox` for the caller's flow-control windows. `server` looks up methods and
holds the state shared by all connections; `service` makes methods of a protocol's functions from
bytes to bytes. `health` and `reflection` are built-in services.
"""
