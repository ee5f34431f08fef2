"""TensorFlow Serving's API over the engine, on gRPC and REST, in its own words.

`grpc` and `rest` answer its methods; `classify` those that take `examples`. `tensor_proto` and
`json_tensors` make arrays of tensors, `model_spec` says which model is meant, `signature_defs` what
a model takes and gives.
"""
