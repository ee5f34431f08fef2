"""The engine: admits calls, orders them, and runs them on worker threads.

- `engine`: admits a call, queues it, starts it, and returns its answer;
- `admission`: decides by deadlines and estimates; uses neither clock nor event loop;
- `estimates`: how long calls take, as measured;
- `retry_after`: when a refused client should come back;
- `job`: one call and its stages: decode, run, encode;
- `batching`: runs calls of the same form as one.
"""
