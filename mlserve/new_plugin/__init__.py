"""`mlserve plugins new`: write the files of a backend that is complete, installable and tested.

The files lie in `template/`, where the runtime is called `myruntime`.
"""
