"""The messages of inference_extensions.proto; typed by `inference_extensions_pb2.pyi`."""

from mlserve.wire.proto._pool import message

ModelConfig = message("inference.ModelConfig")
ModelConfigRequest = message("inference.ModelConfigRequest")
ModelConfigResponse = message("inference.ModelConfigResponse")
ModelStatisticsRequest = message("inference.ModelStatisticsRequest")
ModelStatisticsResponse = message("inference.ModelStatisticsResponse")
RepositoryIndexRequest = message("inference.RepositoryIndexRequest")
RepositoryIndexResponse = message("inference.RepositoryIndexResponse")
ModelRepositoryParameter = message("inference.ModelRepositoryParameter")
RepositoryModelLoadRequest = message("inference.RepositoryModelLoadRequest")
RepositoryModelLoadResponse = message("inference.RepositoryModelLoadResponse")
RepositoryModelUnloadRequest = message("inference.RepositoryModelUnloadRequest")
RepositoryModelUnloadResponse = message("inference.RepositoryModelUnloadResponse")
