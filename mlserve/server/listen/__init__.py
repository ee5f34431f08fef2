"""The two ports of a server: connections, TLS, tokens, limits, and their last requests."""
