"""Recorded traffic on disk: what `mlserve up --record DIR` writes, and `mlserve replay` reads.

`records` says what is kept of a request, `segment` how a file holds it, `folder` what a folder of
such files is, `ring` how a server writes them, and `reading` how they are read.
"""
