"""Compare backends and endpoints: stage by stage, end to end, and in time."""
