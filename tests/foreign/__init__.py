"""Real servers of other projects. As a package: those servers end with the last of its tests."""
