"""The TensorFlow Serving backend of mlserve: SavedModels with the whole image pipeline inside."""

from mlserve.frameworks import confine_frameworks

confine_frameworks()
