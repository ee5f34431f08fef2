"""The messages of model_config.proto; typed by the generated `model_config_pb2.pyi`."""

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from mlserve.wire.proto._pool import POOL, message

ModelConfig = message("tensorflow.serving.ModelConfig")
ModelConfigList = message("tensorflow.serving.ModelConfigList")
ModelServerConfig = message("tensorflow.serving.ModelServerConfig")
ModelType = EnumTypeWrapper(POOL.FindEnumTypeByName("tensorflow.serving.ModelType"))
