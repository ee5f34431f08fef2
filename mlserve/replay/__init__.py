"""`mlserve replay`: recorded traffic, sent again at its true times, beside what became of it then.

`selection` chooses the requests, `asking` finds the server, `bodies` gives each request something
to say, `sending` makes bytes of it, `run` sends them by the open loop of `mlserve.bench`, and
`agreement` and `result` say how the two differ.
"""
