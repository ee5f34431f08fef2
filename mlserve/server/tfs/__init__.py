"""TensorFlow Serving's API over the engine, on gRPC and REST, with its own messages.

`grpc` and `rest` answer its methods; `classify` those that take `examples`. `tensor_proto` and
`json_tensors` convert tensors to and from arrays, `model_spec` finds the requested model, and
`signature_defs` describes a model's inputs and outputs.
"""
