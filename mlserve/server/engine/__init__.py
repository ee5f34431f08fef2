"""The engine: who is let in, who runs next, and the threads that run them.

- `engine`: takes a call in, queues it, starts it, and gives its answer;
- `admission`: decides by deadlines and estimates; knows no clock and no event loop;
- `estimates`: how long calls take, as measured;
- `job`: one call and its stages: decode, run, encode;
- `batching`: runs calls of one form as one.
"""
