"""Images and containers. As a package: the engine of these tests ends with the last of them."""
