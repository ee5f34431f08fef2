"""Read and write JSON, protobuf and images, within limits and in small steps.

The event loop must go on answering while requests are read. So long texts are parsed, and large
messages walked, in pieces of a few milliseconds, and memory is counted before it is allocated.

- JSON: `rapidjson` reads a body; a long one is cut (`json_outline`) and parsed in pieces
  (`json_parser`) into packed lists (`json_lists`). `json_values` converts values to arrays, and
  `json_writer` writes arrays.
- protobuf: `proto_scan` checks the bytes, `proto_reader` parses them.
- images: `images` computes their cost of decoding, and reads bodies that are image files.
"""
