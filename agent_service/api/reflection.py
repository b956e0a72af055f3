"""Reflection: describes the services of this server to tools such as grpcurl, in versions v1 and v1alpha.

grpcio-reflection speaks v1alpha only, serves descriptors without comments and JSON names, and finds no methods, fields
or enum values. This serves the descriptor set that `make proto` writes (generated/agentpb/descriptors.binpb), with the
types of google.rpc that the details of errors are of.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator
from functools import cached_property
from importlib import resources
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from agent_service.api.call import Door
from agent_service.api.chain import SERVICE
from agent_service.api.grpc import GrpcCall, abort
from agent_service.api.identity import Identity
from agent_service.errors import RequestError

V1, V1ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
SERVICES = (SERVICE, "grpc.health.v1.Health", f"{V1}.ServerReflection", f"{V1ALPHA}.ServerReflection")

Request = reflection_pb2.ServerReflectionRequest
Response = reflection_pb2.ServerReflectionResponse


def add_reflection(server: grpc.aio.Server, identity: Identity, door: Door) -> None:
    """Serve both versions of the reflection protocol; their messages are the same on the wire.

    Beyond loopback a caller needs a credential.
    """
    reflection = Reflection(Descriptors())

    async def info(requests: AsyncIterable[Request], context: grpc.aio.ServicerContext[Request, Response]) -> None:
        try:
            async with identity(GrpcCall("ServerReflectionInfo", context, door)):
                await reflection.info(requests, context)
        except RequestError as error:
            await abort(context, error)

    handler = grpc.stream_stream_rpc_method_handler(
        info,
        request_deserializer=Request.FromString,
        response_serializer=Response.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": handler}
    for version in (V1, V1ALPHA):
        service = grpc.method_handlers_generic_handler(f"{version}.ServerReflection", handlers)
        server.add_generic_rpc_handlers((service,))


class Descriptors:
    """The files of the contract and of the services beside it, found by name and by symbol."""

    @cached_property
    def files(self) -> dict[str, FileDescriptorProto]:
        """Every file by its name."""
        contract = resources.files("agentpb").joinpath("descriptors.binpb").read_bytes()
        beside = (_proto_of(health_pb2), _proto_of(reflection_pb2), _as_v1(_proto_of(reflection_pb2)))
        return {file.name: file for file in (*FileDescriptorSet.FromString(contract).file, *beside)}

    @cached_property
    def symbols(self) -> dict[str, str]:
        """The name of the file that defines each symbol, by the symbol's full name."""
        return {symbol: file.name for file in self.files.values() for symbol in _symbols(file)}

    @cached_property
    def messages(self) -> set[str]:
        """Full names of all message types."""
        return {name for file in self.files.values() for name, _ in _messages(file)}

    def with_dependencies(self, name: str) -> list[FileDescriptorProto]:
        """Return a file and what it imports, itself first. Raises KeyError when there is no such file."""
        found: dict[str, FileDescriptorProto] = {}
        wanted = [name]
        while wanted:
            file = self.files[wanted.pop()]
            if file.name not in found:
                found[file.name] = file
                wanted += file.dependency
        return list(found.values())


class Reflection:
    """Answers questions about descriptors."""

    def __init__(self, descriptors: Descriptors) -> None:
        """Answer from these descriptors."""
        self._descriptors = descriptors

    async def info(
        self, requests: AsyncIterable[Request], context: grpc.aio.ServicerContext[Request, Response]
    ) -> None:
        """Answer each request of a stream in turn."""
        async for request in requests:
            response = self.answer(request)
            response.valid_host = request.host
            response.original_request.CopyFrom(request)
            await context.write(response)

    def answer(self, request: Request) -> Response:
        """Return the answer to one request; an error is an answer as well."""
        asked = request.WhichOneof("message_request")
        try:
            if asked == "list_services":
                return _services()
            if asked == "file_by_filename":
                return self._files(request.file_by_filename)
            if asked == "file_containing_symbol":
                return self._files(self._descriptors.symbols[request.file_containing_symbol.removeprefix(".")])
            if asked == "all_extension_numbers_of_type":
                return self._no_extensions(request.all_extension_numbers_of_type)
            if asked == "file_containing_extension":
                return _error(grpc.StatusCode.NOT_FOUND, "this server has no extensions")
        except KeyError:
            return _error(grpc.StatusCode.NOT_FOUND, f"there is no {getattr(request, asked or '')!r} here")
        return _error(grpc.StatusCode.INVALID_ARGUMENT, "the request names nothing that this version can describe")

    def _files(self, name: str) -> Response:
        response = Response()
        response.file_descriptor_response.file_descriptor_proto.extend(
            file.SerializeToString() for file in self._descriptors.with_dependencies(name)
        )
        return response

    def _no_extensions(self, message: str) -> Response:
        if message not in self._descriptors.messages:
            raise KeyError(message)
        response = Response()
        response.all_extension_numbers_response.base_type_name = message
        return response


def _services() -> Response:
    response = Response()
    for name in SERVICES:
        response.list_services_response.service.add(name=name)
    return response


def _error(code: grpc.StatusCode, message: str) -> Response:
    response = Response()
    response.error_response.error_code = code.value[0]
    response.error_response.error_message = message
    return response


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    """Full names of everything that a file defines, members included."""
    for name, message in _messages(file):
        yield name
        yield from _within(name, message.field, message.oneof_decl, message.extension)
        yield from _enums(name, message.enum_type)
    yield from _enums(file.package, file.enum_type)
    for service in file.service:
        yield f"{file.package}.{service.name}"
        yield from _within(f"{file.package}.{service.name}", service.method)


def _messages(file: FileDescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
    """Every message type of a file, also the nested ones, with its full name."""
    left = [(f"{file.package}.{each.name}", each) for each in file.message_type]
    while left:
        name, message = left.pop()
        yield name, message
        left += [(f"{name}.{each.name}", each) for each in message.nested_type]


def _enums(scope: str, enums: Iterable[EnumDescriptorProto]) -> Iterator[str]:
    """Full names of enums and of their values, which belong to the scope around the enum."""
    for enum in enums:
        yield f"{scope}.{enum.name}"
        yield from _within(scope, enum.value)


def _within(scope: str, *members: Iterable[Any]) -> Iterator[str]:
    for each in members:
        yield from (f"{scope}.{member.name}" for member in each)


def _proto_of(module: Any) -> FileDescriptorProto:
    """The file of a generated module, with the JSON names that protoc leaves out of generated code."""
    file = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    for name, message in _messages(file):
        fields = module.DESCRIPTOR.pool.FindMessageTypeByName(name).fields_by_name
        for field in message.field:
            field.json_name = fields[field.name].json_name
    return file


def _as_v1(file: FileDescriptorProto) -> FileDescriptorProto:
    """The reflection protocol's file under its released name; nothing else differs."""
    renamed = FileDescriptorProto.FromString(file.SerializeToString())
    renamed.name = file.name.replace("v1alpha", "v1")
    renamed.package = V1
    for _, message in _messages(renamed):
        for field in message.field:
            if field.type_name:  # a scalar must not get one, not even an empty one
                field.type_name = field.type_name.replace(V1ALPHA, V1)
    for service in renamed.service:
        for method in service.method:
            method.input_type = method.input_type.replace(V1ALPHA, V1)
            method.output_type = method.output_type.replace(V1ALPHA, V1)
    return renamed
