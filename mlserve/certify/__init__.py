"""`mlserve certify`: whether exported models answer here as their certificates say.

`subjects` are the versions to ask, `run` starts a server for each, asks it the golden questions and
those of the user, and `result` says in words what came of it.
"""
