"""`mlserve tune`: which options serve a model best on this machine, measured and kept for `up`.

`candidates` says what is tried, `trial` measures one server, `search` plans the trials within the
time that there is, `judge` chooses the winner, `records` keeps it, and `advice` is what `up` takes
from that.
"""
