"""The engine: admits calls, orders them as `mlserve.admission` says, and runs them.

- `engine`: admits a call, queues it, starts it, and returns its answer;
- `job`: one call on its way through the engine;
- `work`: what is done for it on a worker's thread: decode, run, encode; alone or in a batch;
- `threads`: those threads;
- `deadlines`: ends calls whose time is up;
- `beside`: asks a version what no client asks, without a slot;
- `examiner`: asks the golden inputs of a certificate.
"""
