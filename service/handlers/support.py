"""SupportService: registered supports."""

from __future__ import annotations

from cape.v1 import support_service_pb2, support_service_pb2_grpc
from service.access.callers import current_caller
from service.errors import InvalidFieldError
from service.pipelines.deadlines import Context, deadline_of, due
from service.supports.store import Supports


class SupportService(support_service_pb2_grpc.SupportServiceServicer):
    """Creates, returns, lists and deletes registered supports."""

    def __init__(self, supports: Supports, *, default_deadline: float) -> None:
        """Takes the supports, and the deadline in seconds of calls that have none."""
        self._supports = supports
        self._default_deadline = default_deadline

    async def CreateSupport(  # noqa: N802
        self, request: support_service_pb2.CreateSupportRequest, context: Context
    ) -> support_service_pb2.CreateSupportResponse:
        """See support_service.proto."""
        if not request.HasField("support"):
            raise InvalidFieldError("support", "missing")
        try:
            async with due(deadline_of(context, self._default_deadline)):
                support, existed = await self._supports.create(current_caller().tenant, request.support)
        except InvalidFieldError as error:
            raise error.within("support") from None
        return support_service_pb2.CreateSupportResponse(support=support, already_existed=existed)

    async def GetSupport(  # noqa: N802
        self, request: support_service_pb2.GetSupportRequest, context: Context
    ) -> support_service_pb2.GetSupportResponse:
        """See support_service.proto."""
        pixels = _with_pixels(request.view)
        async with due(deadline_of(context, self._default_deadline)):
            support = await self._supports.get(current_caller().tenant, request.name, pixels=pixels)
        return support_service_pb2.GetSupportResponse(support=support)

    async def ListSupports(  # noqa: N802
        self, request: support_service_pb2.ListSupportsRequest, context: Context
    ) -> support_service_pb2.ListSupportsResponse:
        """See support_service.proto."""
        pixels = _with_pixels(request.view)
        async with due(deadline_of(context, self._default_deadline)):
            page = await self._supports.list(
                current_caller().tenant, request.page_size, request.page_token, pixels=pixels
            )
        return support_service_pb2.ListSupportsResponse(supports=page.supports, next_page_token=page.next_page_token)

    async def DeleteSupport(  # noqa: N802
        self, request: support_service_pb2.DeleteSupportRequest, context: Context
    ) -> support_service_pb2.DeleteSupportResponse:
        """See support_service.proto."""
        async with due(deadline_of(context, self._default_deadline)):
            await self._supports.delete(current_caller().tenant, request.name)
        return support_service_pb2.DeleteSupportResponse()


def _with_pixels(view: support_service_pb2.SupportView.ValueType) -> bool:
    """Whether a view includes the pixels of the examples."""
    if view not in support_service_pb2.SupportView.values():
        raise InvalidFieldError("view", f"{view} is not a view")
    return view == support_service_pb2.SUPPORT_VIEW_FULL
