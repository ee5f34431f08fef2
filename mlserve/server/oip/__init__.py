"""The Open Inference Protocol over the engine, on gRPC and REST, with Triton's extensions.

`grpc` and `rest` answer its methods. An inference is a `request`, whatever it was written in:
`json_body` and `tensors` read it, `parameters` has what it says beside its tensors. `metadata`
describes server and models; `extensions` has Triton's model configuration, statistics and model
repository.
"""
