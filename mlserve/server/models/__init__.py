"""The models of a server: their versions on disk, loaded, followed, leased to requests.

- `models`: the models by name; what the rest of the server asks;
- `model`: the versions of one model, loaded and unloaded as its folders change;
- `folders`: what the version folders hold;
- `loading`: opens one version and runs it once; which failed ones are tried again;
- `versions`: which versions to serve, and the state of each.
"""
