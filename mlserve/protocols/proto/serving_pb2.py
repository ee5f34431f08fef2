"""The messages of serving.proto; typed by the generated `serving_pb2.pyi`."""

from mlserve.protocols.proto._pool import message

ModelSpec = message("tensorflow.serving.ModelSpec")
PredictRequest = message("tensorflow.serving.PredictRequest")
PredictResponse = message("tensorflow.serving.PredictResponse")
SignatureDefMap = message("tensorflow.serving.SignatureDefMap")
GetModelMetadataRequest = message("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = message("tensorflow.serving.GetModelMetadataResponse")
StatusProto = message("tensorflow.serving.StatusProto")
GetModelStatusRequest = message("tensorflow.serving.GetModelStatusRequest")
ModelVersionStatus = message("tensorflow.serving.ModelVersionStatus")
GetModelStatusResponse = message("tensorflow.serving.GetModelStatusResponse")
ReloadConfigRequest = message("tensorflow.serving.ReloadConfigRequest")
ReloadConfigResponse = message("tensorflow.serving.ReloadConfigResponse")
PredictLog = message("tensorflow.serving.PredictLog")
PredictionLog = message("tensorflow.serving.PredictionLog")
