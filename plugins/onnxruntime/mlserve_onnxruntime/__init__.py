"""The ONNX Runtime backend of mlserve."""

from mlserve.paths import confine_frameworks

confine_frameworks()
