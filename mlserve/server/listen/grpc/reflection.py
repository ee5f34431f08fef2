"""gRPC's reflection service (v1 and v1alpha): list the services, and send their descriptors.

The two versions differ only in their names, so the messages of one serve both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2

from mlserve.server.codec.proto_reader import parse
from mlserve.server.listen.grpc.call import GrpcCall, PlainMethod
from mlserve.server.listen.grpc.status import CODES
from mlserve.wire.services import REFLECTION, REFLECTION_ALPHA, method_path

_MOST_BYTES = 16 * 2**10

_Request = reflection_pb2.ServerReflectionRequest
_Response = reflection_pb2.ServerReflectionResponse


class Reflection:
    """Describes these services, whose file descriptors are in the pool."""

    def __init__(self, services: Iterable[str], pool: DescriptorPool) -> None:
        pool.AddSerializedFile(reflection_pb2.DESCRIPTOR.serialized_pb)
        pool.AddSerializedFile(_stable().SerializeToString())
        self._services = sorted((*services, REFLECTION, REFLECTION_ALPHA))
        self._pool = pool

    def methods(self) -> dict[str, PlainMethod]:
        """Return the method under its full name in both versions."""
        method = PlainMethod(self._serve, _MOST_BYTES, needs_token=True)
        return {
            method_path(service, "ServerReflectionInfo"): method
            for service in (REFLECTION, REFLECTION_ALPHA)
        }

    async def _serve(self, call: GrpcCall) -> None:
        while (data := await call.receive()) is not None:
            await call.write(self._answer(parse(_Request, data)).SerializeToString())

    def _answer(self, request: _Request) -> _Response:
        answer = _Response(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        find: dict[str | None, Callable[[], None]] = {
            "list_services": lambda: self._list(answer),
            "file_by_filename": lambda: _add(
                answer, self._pool.FindFileByName(request.file_by_filename)
            ),
            "file_containing_symbol": lambda: _add(
                answer, self._pool.FindFileContainingSymbol(request.file_containing_symbol)
            ),
            "file_containing_extension": lambda: self._find_extension(request, answer),
            "all_extension_numbers_of_type": lambda: self._number_extensions(request, answer),
        }
        if asked not in find:
            _refuse(answer, "INVALID_ARGUMENT", "unknown kind of request")
            return answer
        try:
            find[asked]()
        except KeyError:
            _refuse(answer, "NOT_FOUND", "no file or symbol has that name")
        return answer

    def _list(self, answer: _Response) -> None:
        for name in self._services:
            answer.list_services_response.service.add(name=name)

    def _find_extension(self, request: _Request, answer: _Response) -> None:
        wanted = request.file_containing_extension
        message = self._pool.FindMessageTypeByName(wanted.containing_type)
        extension = self._pool.FindExtensionByNumber(message, wanted.extension_number)
        _add(answer, self._pool.FindFileContainingSymbol(extension.full_name))

    def _number_extensions(self, request: _Request, answer: _Response) -> None:
        name = request.all_extension_numbers_of_type
        extensions = self._pool.FindAllExtensions(self._pool.FindMessageTypeByName(name))
        numbers = answer.all_extension_numbers_response
        numbers.base_type_name = name
        numbers.extension_number.extend(extension.number for extension in extensions)


def _add(answer: _Response, file: FileDescriptor) -> None:
    """Add the file and everything it imports."""
    files, seen = [file], {file.name}
    for each in files:
        answer.file_descriptor_response.file_descriptor_proto.append(each.serialized_pb)
        files += [other for other in each.dependencies if other.name not in seen]
        seen |= {other.name for other in each.dependencies}


def _refuse(answer: _Response, code: str, text: str) -> None:
    answer.error_response.error_code = CODES[code]
    answer.error_response.error_message = text


def _stable() -> FileDescriptorProto:
    """Return the file descriptor of v1, made from that of v1alpha."""
    stable, alpha = (name.rpartition(".")[0] for name in (REFLECTION, REFLECTION_ALPHA))
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name, file.package = file.name.replace("v1alpha", "v1"), stable
    fields = [field for message in file.message_type for field in message.field]
    for field in filter(lambda field: field.type_name, fields):
        field.type_name = field.type_name.replace(f".{alpha}.", f".{stable}.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(alpha, stable)
        method.output_type = method.output_type.replace(alpha, stable)
    return file
