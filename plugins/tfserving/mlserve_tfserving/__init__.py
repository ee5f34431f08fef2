"""The TensorFlow Serving backend of mlserve: SavedModels with the whole image pipeline inside."""
