"""From bytes to values and back: JSON, protobuf and images, within bounds of memory and time."""
