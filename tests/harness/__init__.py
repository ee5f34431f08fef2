"""Shared test helpers, one subject per module.

    command       the `mlserve` command as a process
    echo          versions of the backend `echo`, and the manifest of a model
    server        servers of the backend `echo`
    model_server  servers of `mlserve-model-server`
    foreign       a hand-written third-party server; `foreign_tfs`, `foreign_oip`: two of them
    faulty        servers that misbehave on purpose, on bare sockets
    requests      one request in both protocols and both APIs
    raw_http      HTTP read from a bare socket; `raw_http2` the same for HTTP/2
    load          clients that send requests without pause, and the outcome of each request
    ports         ports that were free a moment ago
    engine        a private Docker engine, and containers in it

`wait_until`, which waits for a condition, is in `mlserve.testing.processes`, because the
conformance suite needs it too.
"""
