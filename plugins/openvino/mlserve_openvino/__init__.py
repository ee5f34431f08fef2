"""The OpenVINO backend of mlserve."""

from mlserve.frameworks import confine_frameworks

confine_frameworks()
