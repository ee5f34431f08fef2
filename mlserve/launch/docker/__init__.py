"""Servers in containers, driven by the `docker` command: how images are built, run and stopped."""
