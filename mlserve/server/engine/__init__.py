"""The work of a server: admission by deadline, the queue, batches, the threads that run them."""
