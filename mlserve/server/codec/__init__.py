"""What both protocols read and write: JSON, protobuf and images, within limits and in small steps.

Reading runs beside the event loop, which has to go on answering: so long texts are parsed, and
large messages walked, in pieces of some milliseconds, and what they become is counted before.

- JSON: `rapidjson` reads a body; a long one is cut (`json_outline`) and parsed in pieces
  (`json_parser`) into packed lists (`json_lists`). `json_values` makes arrays of values, and
  `json_writer` writes them.
- protobuf: `proto_scan` looks at the bytes, `proto_reader` makes the message.
- images: `images` counts what they cost to decode, and reads bodies that are image files.
"""
