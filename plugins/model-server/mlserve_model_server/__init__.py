"""`mlserve-model-server`: mlserve's server with tensorflow_model_server's flags and files."""
