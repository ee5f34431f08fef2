"""The messages of example.proto; typed by the generated `example_pb2.pyi`."""

from mlserve.wire.proto._pool import message

BytesList = message("tensorflow.BytesList")
FloatList = message("tensorflow.FloatList")
Int64List = message("tensorflow.Int64List")
Feature = message("tensorflow.Feature")
Features = message("tensorflow.Features")
Example = message("tensorflow.Example")
