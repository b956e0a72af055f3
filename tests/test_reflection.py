"""Reflection: both versions of the protocol describe everything that is served, with comments and JSON names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.conftest import Service
from tests.rpc import ALL

NAME = "agentservice.v1.AgentService"
Ask = Callable[..., Any]


@pytest.fixture(params=["v1", "v1alpha"])
def ask(service: Service, request: pytest.FixtureRequest) -> Ask:
    """Ask one question by reflection; the messages of both versions are the same on the wire."""
    call: Any = service.channel.stream_stream(
        f"/grpc.reflection.{request.param}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    async def one(**fields: Any) -> Any:
        question = reflection_pb2.ServerReflectionRequest(**fields)
        answer = await anext(aiter(call(iter([question]))))
        assert answer.original_request == question
        return answer

    return one


def files_of(answer: Any) -> list[FileDescriptorProto]:
    """The files in an answer."""
    return [FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto]


async def test_every_service_is_listed_and_every_file_of_it_is_whole(ask: Ask) -> None:
    listed = [each.name for each in (await ask(list_services="")).list_services_response.service]
    versions = [f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha")]
    assert listed == [NAME, "grpc.health.v1.Health", *versions]
    pool = DescriptorPool()
    for name in listed:
        for file in reversed(files_of(await ask(file_containing_symbol=name))):
            pool.Add(file)
        assert pool.FindServiceByName(name).methods, "what is described can be loaded"
    assert {method.name for method in pool.FindServiceByName(NAME).methods} == set(ALL)


@pytest.mark.parametrize(
    "symbol",
    [
        f"{NAME}.Execute",
        "agentservice.v1.ExecuteRequest",
        "agentservice.v1.ExecuteRequest.session_id",
        "agentservice.v1.Attachment.source",
        "agentservice.v1.SessionState",
        "agentservice.v1.SESSION_STATE_ERROR",
        ".agentservice.v1.Session",
    ],
)
async def test_methods_fields_and_values_can_be_described(ask: Ask, symbol: str) -> None:
    first, *imported = files_of(await ask(file_containing_symbol=symbol))
    assert first.package == "agentservice.v1"
    assert set(first.dependency) <= {file.name for file in imported}


async def test_descriptors_have_comments_and_json_names(ask: Ask) -> None:
    (contract, *_) = files_of(await ask(file_by_filename="agentpb/agent.proto"))
    comments = [location.leading_comments for location in contract.source_code_info.location]
    assert any(text.startswith(" Starts a session") for text in comments)
    for file in files_of(await ask(file_containing_symbol=NAME)):
        assert all(field.json_name for message in file.message_type for field in message.field)
    health = files_of(await ask(file_containing_symbol="grpc.health.v1.Health"))[0]
    assert all(field.json_name for message in health.message_type for field in message.field)


@pytest.mark.parametrize("detail", ["ErrorInfo", "BadRequest", "RetryInfo", "ResourceInfo", "QuotaFailure", "Status"])
async def test_the_types_of_error_details_can_be_described(ask: Ask, detail: str) -> None:
    assert files_of(await ask(file_containing_symbol=f"google.rpc.{detail}"))


@pytest.mark.parametrize(
    "question",
    [
        {"file_containing_symbol": "no.such.Symbol"},
        {"file_containing_symbol": ""},
        {"file_by_filename": "../../etc/passwd"},
        {"all_extension_numbers_of_type": "no.such.Message"},
        {"file_containing_extension": {"containing_type": "agentservice.v1.Session", "extension_number": 7}},
    ],
)
async def test_what_is_not_here_is_not_found_and_the_next_question_is_answered(
    ask: Ask, question: dict[str, Any]
) -> None:
    answer = await ask(**question)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert answer.error_response.error_message


async def test_a_message_without_extensions_has_none(ask: Ask) -> None:
    answer = await ask(all_extension_numbers_of_type="agentservice.v1.Session")
    assert answer.all_extension_numbers_response.base_type_name == "agentservice.v1.Session"
    assert not answer.HasField("error_response")


async def test_a_question_of_a_later_version_is_refused(ask: Ask) -> None:
    answer = await ask()
    assert answer.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_the_client_library_of_grpc_reads_the_contract(service: Service) -> None:
    def read() -> set[str]:
        with grpc.insecure_channel(service.running.address) as channel:
            pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            return {method.name for method in pool.FindServiceByName(NAME).methods}

    assert await asyncio.to_thread(read) == set(ALL)
