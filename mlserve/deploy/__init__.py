"""`mlserve deploy`: the files that run a server elsewhere: on Kubernetes, by Compose or systemd.

`plan` is what is deployed, one value. A module for each kind of place makes texts of it, by the
names of their files, and `writing` puts them where they belong.
"""
