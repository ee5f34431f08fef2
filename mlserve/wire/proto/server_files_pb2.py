"""The messages of server_files.proto; typed by the generated `server_files_pb2.pyi`."""

from mlserve.wire.proto._pool import message

BatchingParameters = message("tensorflow.serving.BatchingParameters")
MonitoringConfig = message("tensorflow.serving.MonitoringConfig")
SSLConfig = message("tensorflow.serving.SSLConfig")
