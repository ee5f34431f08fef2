"""The Open Inference Protocol over the engine, on gRPC and REST, with Triton's extensions.

`grpc` and `rest` answer its methods. `request` is an inference in any encoding; `json_body` and
`tensors` read it, and `parameters` holds what it says beside its tensors. `metadata` describes the
server and its models; `extensions` has Triton's model configuration, statistics and model
repository.
"""
