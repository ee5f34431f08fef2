"""What is seen of a server: each request's record, its metrics, and the log."""
