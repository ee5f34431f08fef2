"""Ladders: one model in several precisions, where only doubtful answers take the slow one.

    rung int8 -> certain? answer
              -> doubtful, and time for fp32: rung fp32 -> answer
              -> doubtful, and no time: as `--ladder-policy` says

- `choice`: which exported versions are the rungs;
- `rungs`: the rungs as data, and whether they can be a ladder;
- `climb`: what is known of each row's answer;
- `runner`: runs them, as one Runner; `certainty`: where a label can change; `run_times`: how long a
  rung takes.
"""
