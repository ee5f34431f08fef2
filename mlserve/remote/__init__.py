"""Models that are not on this machine: fetched once, checked, kept, and used offline afterwards.

`mlserve.remote.address` reads an address, and `mlserve.remote.resolving` gives the local path that
stands for it. Each kind of server has a module of its own. No model source knows of any of this.
"""
