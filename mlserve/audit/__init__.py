"""Explains what a server decided, and replays it to see what better decisions would have given.

- `explanation`: one decision in words, for `mlserve why`;
- `regret`: the calls of a recording through the same admission code, and through a clairvoyant
  scheduler, for `mlserve audit`.
"""
