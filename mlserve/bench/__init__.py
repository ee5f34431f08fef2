"""`mlserve bench`: one load generator, for any server that `mlserve predict` can ask.

A request is encoded once, by the client's own adapters (`questions`). The load loop (`load`) sends
these bytes on raw connections (`http1`, `http2`), and counts what becomes of them (`tally`).
"""
