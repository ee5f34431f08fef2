"""`mlserve-model-server`: our server behind the flags and files of tensorflow_model_server."""
