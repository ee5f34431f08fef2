"""What is seen of a server: each request's exchange, its metrics, and the log."""
