"""Supports, registered or sent along with a query: checked, kept, and ready to be encoded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from cape.manifest import Manifest
from cape.v1 import support_pb2
from service.caches import SingleFlightCache
from service.errors import InvalidFieldError, ServiceError, UnusableSupportError
from service.images import ImageLimits
from service.supports.names import NAME_PREFIX, cache_key, content_name, owner_and_name
from service.supports.outline import SupportOutline
from service.supports.preparation import prepare_support
from service.supports.prepared_support import PreparedSupport
from service.supports.registry import OwnedName, Page, SupportRegistry, page_size_of
from service.supports.validation import check_support

MAX_RESOURCE_NAME = 200
"""Characters; ours have 41."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SupportSource:
    """A support that a query refers to.

    Attributes:
        definition: all of it but the images.
        load: reads, decodes and crops the images; needed only while nothing of the support is cached.
        complaint: what its caller is told of something wrong in it; takes field paths relative to the support.
    """

    definition: SupportOutline
    load: Callable[[], Awaitable[PreparedSupport]]
    complaint: Callable[[InvalidFieldError], ServiceError]


class Supports:
    """The supports of a server: the registry, and the definitions that warm queries find in memory."""

    def __init__(
        self,
        registry: SupportRegistry,
        manifest: Manifest,
        limits: ImageLimits,
        *,
        pool: Executor,
        definition_cache_bytes: int,
        max_page_bytes: int,
        forget: Callable[[str], None],
        known: Callable[[], set[str]],
        check_words: Callable[[SupportOutline], None] = lambda definition: None,
    ) -> None:
        """Puts the parts together.

        Args:
            registry: keeps supports.
            manifest: gives the limits of a support and the size of a crop.
            limits: how large an image may be.
            pool: threads that decode images.
            definition_cache_bytes: memory for definitions.
            max_page_bytes: a page of a list ends before it grows beyond this.
            forget: drops what was computed from a support, given its key.
            known: keys of the supports of which something computed is kept.
            check_words: raises InvalidFieldError, relative to the support, where no model can take its words.
        """
        self._registry = registry
        self._manifest = manifest
        self._limits = limits
        self._pool = pool
        self._max_page_bytes = max_page_bytes
        self._forget_computed = forget
        self._known_computed = known
        self._check_words = check_words
        self.definitions: SingleFlightCache[str, SupportOutline] = SingleFlightCache(definition_cache_bytes, size=_size)

    async def open(self, report: Callable[[bool], None]) -> None:
        """Opens the registry; see `SupportRegistry.open`.

        Raises:
            RegistryError: it will never work as it is set up.
        """
        await self._registry.open(self._forget, self._known, report)

    async def create(self, owner: str, support: support_pb2.Support) -> tuple[support_pb2.Support, bool]:
        """Checks a support, images included, and registers it for `owner` under its content's name.

        Returns:
            What `SupportRegistry.create` does.

        Raises:
            InvalidFieldError: field paths relative to the support.
        """

        def check() -> support_pb2.Support:
            definition = self._define(owner, support)
            self._check_words(definition)
            prepare_support(support, definition, self._manifest, self._limits)
            checked = support_pb2.Support()
            checked.CopyFrom(support)
            # What a newer client sent and we do not know, we have not checked: it is not kept.
            checked.DiscardUnknownFields()
            checked.ClearField("create_time")
            checked.name = definition.name
            return checked

        checked = await self._in_thread(check)
        return await self._registry.create(owner, checked)

    async def get(self, owner: str, name: str, *, pixels: bool) -> support_pb2.Support:
        """Returns a registered support.

        Raises:
            InvalidFieldError: field 'name', not the name of a support.
            NotFoundError: no support of `owner` has that name.
        """
        return await self._registry.get(owner, _checked_name("name", name), pixels=pixels)

    async def list(self, owner: str, page_size: int, page_token: str, *, pixels: bool) -> Page:
        """Returns a page of an owner's registered supports, oldest first.

        Raises:
            InvalidFieldError: field 'page_size' or 'page_token'.
        """
        return await self._registry.list(
            owner, page_size_of(page_size), page_token, pixels=pixels, max_bytes=self._max_page_bytes
        )

    async def delete(self, owner: str, name: str) -> None:
        """Removes a registered support, and all that was computed from it.

        Raises:
            InvalidFieldError: field 'name', not the name of a support.
            NotFoundError: no support of `owner` has that name.
        """
        _checked_name("name", name)
        try:
            await self._registry.delete(owner, name)
        finally:
            # Also where it was not there: another process may have deleted it, and left it in our memory.
            self._forget(owner, name)

    async def registered(self, owner: str, name: str, deadline: float | None = None) -> SupportSource:
        """Finds a registered support; from memory where it has been asked for before.

        Args:
            owner: whose support.
            name: 'supports/…'.
            deadline: event loop time until which to wait.

        Raises:
            InvalidFieldError: field 'support', not the name of a support.
            NotFoundError: no support of `owner` has that name.
        """
        _checked_name("support", name)

        async def look_up() -> SupportOutline:
            return SupportOutline.of(name, await self._registry.get(owner, name, pixels=False), owner)

        definition, _ = await self.definitions.get(cache_key(owner, name), look_up, deadline)

        async def load() -> PreparedSupport:
            support = await self._registry.get(owner, name, pixels=True)
            try:
                return await self._in_thread(lambda: self._prepare(support, definition))
            except InvalidFieldError as error:
                raise unusable(error) from None

        def unusable(error: InvalidFieldError) -> ServiceError:
            # It was right when it was registered: this server serves another model, or has other limits.
            return UnusableSupportError(name, f"this server cannot use {name}: {error}")

        return SupportSource(definition, load, unusable)

    async def inline(self, owner: str, support: support_pb2.Support) -> SupportSource:
        """Takes a support that came along with a query of `owner`.

        Raises:
            InvalidFieldError: field paths relative to the request, 'inline_support…'; from `load` too.
        """
        try:
            definition = await self._in_thread(lambda: self._define(owner, support))
        except InvalidFieldError as error:
            raise error.within("inline_support") from None

        async def load() -> PreparedSupport:
            try:
                return await self._in_thread(lambda: prepare_support(support, definition, self._manifest, self._limits))
            except InvalidFieldError as error:
                raise wrong(error) from None

        def wrong(error: InvalidFieldError) -> ServiceError:
            return error.within("inline_support")

        return SupportSource(definition, load, wrong)

    def _define(self, owner: str, support: support_pb2.Support) -> SupportOutline:
        check_support(support, self._manifest, self._limits)
        return SupportOutline.of(content_name(support), support, owner)

    def _forget(self, owner: str, name: str) -> None:
        """Drops a support that is gone, and what was computed from it."""
        key = cache_key(owner, name)
        self.definitions.invalidate(lambda cached: cached == key)
        self._forget_computed(key)

    def _known(self) -> set[OwnedName]:
        """The supports of which anything is in memory."""
        return {owner_and_name(key) for key in (*self.definitions.known(), *self._known_computed())}

    def _prepare(self, support: support_pb2.Support, definition: SupportOutline) -> PreparedSupport:
        check_support(support, self._manifest, self._limits)
        return prepare_support(support, definition, self._manifest, self._limits)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _checked_name(field: str, name: str) -> str:
    """Tells a name that is not there from something that cannot be a name."""
    if not len(NAME_PREFIX) < len(name) <= MAX_RESOURCE_NAME or not name.startswith(NAME_PREFIX):
        raise InvalidFieldError(field, f"{name[:50]!r} is not the name of a support, '{NAME_PREFIX}…'")
    return name


def _size(definition: SupportOutline) -> int:
    """Bytes that a definition takes, roughly: what Python adds to a string is some 50 bytes."""
    texts = (*definition.keypoint_names, *definition.descriptions, *definition.texts)
    return sum(50 + len(text) for text in texts) + definition.edges.nbytes + 500
