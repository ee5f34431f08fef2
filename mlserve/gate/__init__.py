"""Accept, reject or ask a human: the gate of a production line, and its audit file."""
