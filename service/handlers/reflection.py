"""Server reflection, versions v1 and v1alpha."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

VERSION_1 = "grpc.reflection.v1.ServerReflection"
"""Its messages are those of v1alpha under another package name. The Python library has v1alpha only."""


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Lets clients list services and read the protos.

    Args:
        server: gets the reflection services.
        services: full names of its services.
    """
    names = (*services, reflection.SERVICE_NAME, VERSION_1)
    servicer = reflection.aio.ReflectionServicer(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler(VERSION_1, {"ServerReflectionInfo": method})
    server.add_generic_rpc_handlers((handler,))
