"""Start and stop servers: each is described as data first, then run by a launcher."""
