"""A second version of a model: asked beside the one that serves, or given a share of the requests.

- `rollouts`: what each model has of them, told of every call by the engine;
- `shadow`: the version or server that is asked what is answered, and never returned;
- `split`: which version gets a request, how both did, and when to stop;
- `mirror`: asks the same questions while there is room, and never waits for room;
- `companions`: who is asked: a version in a process of its own, a served one, another server;
- `comparison`: whether two answers agree; `tally`: the counts of that;
- `pages`: all of it, on both ports.

Nothing here may delay or fail a real call. What goes wrong is a line in the log and in the report.
"""
