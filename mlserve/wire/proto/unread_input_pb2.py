"""The messages of unread_input.proto; typed by the generated `unread_input_pb2.pyi`."""

from mlserve.wire.proto._pool import message

UnreadRequest = message("mlserve.UnreadRequest")
UnreadInput = message("mlserve.UnreadInput")
