"""Run servers in containers through the `docker` command: build, run and stop."""
