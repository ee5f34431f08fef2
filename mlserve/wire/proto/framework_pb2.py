"""The messages of framework.proto; typed by the generated `framework_pb2.pyi`."""

from mlserve.wire.proto._pool import message

TensorShapeProto = message("tensorflow.TensorShapeProto")
TensorProto = message("tensorflow.TensorProto")
TensorInfo = message("tensorflow.TensorInfo")
SignatureDef = message("tensorflow.SignatureDef")
