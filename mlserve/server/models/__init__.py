"""The models of a server: find, load, follow and unload their versions, and lease them to requests.

- `models`: the models by name, as the rest of the server uses them;
- `model`: the versions of one model, loaded and unloaded as its folders change;
- `folders`: the contents of the version folders;
- `loading`: opens a version and runs it once; decides which failed versions to retry;
- `versions`: which versions to serve, and the state of each.
"""
