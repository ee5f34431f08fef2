"""Who is let in, who runs next, and who is told no: by deadlines, estimates and patience.

- `admission`: the queue and the slots; decides on arrival and at the start of each call;
- `estimates`: how long calls take, as measured;
- `patience`: how long callers wait that send no deadline, as seen;
- `survival`: the survival curve from which that is read;
- `callers`: what is known of a caller, and how important its call is;
- `verdicts`: why a call was refused, and how those that ran ended;
- `retry_after`: when a refused client should come back;
- `decisions`: the last decisions, kept for `mlserve why` and `mlserve audit`;
- `replay`: runs recorded or made-up arrivals through the same code, on a clock of its own;
- `clairvoyant`: what one would have answered that knows how long calls take and when callers leave.

Nothing here reads a clock, uses asyncio or knows the server: the caller passes the time, in
seconds. So the same code runs in a server, in a simulation, and in the replay of what a server did.
"""
