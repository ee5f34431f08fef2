"""What the tests share, one thing a module.

command       the `mlserve` command as a process
echo          versions of the backend `echo`, and the manifest of a model
server        servers of the backend `echo`
model_server  servers of `mlserve-model-server`
foreign       a third-party server that a test writes by hand; `foreign_tfs`, `foreign_oip`: two
faulty        servers that misbehave on purpose, on bare sockets
requests      one question in both protocols and both APIs
raw_http      HTTP read from a bare socket; `raw_http2` the same for HTTP/2
load          clients that ask without a pause, and what became of each request
ports         ports that were free a moment ago
engine        a Docker engine of the tests' own, and containers in it

`wait_until`, which waits for a condition, is in `mlserve.testing.processes`: the conformance suite
needs it too.
"""
