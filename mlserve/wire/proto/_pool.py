"""The message classes of our `.proto` files, in a descriptor pool of their own.

TensorFlow registers messages of the same full names in protobuf's default pool, so generated
`_pb2` modules would clash with it in the embedded server. A private pool does not clash, and has no
generated code that could be newer than the installed protobuf: `descriptors.binpb` is plain data.
`make protos` writes it, and the `.pyi` files beside it.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

POOL = descriptor_pool.DescriptorPool()

for _file in descriptor_pb2.FileDescriptorSet.FromString(
    files(__package__).joinpath("descriptors.binpb").read_bytes()
).file:
    POOL.Add(_file)


def message(full_name: str) -> Any:
    """The class of the message of that full name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))
