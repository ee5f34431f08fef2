"""The page in a browser. As a package: browser and servers end with the last of its tests."""
