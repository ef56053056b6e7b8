"""Supports, registered or sent along with a query: validated, stored, and prepared for encoding."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from cape.manifest import Manifest
from cape.v1 import support_pb2
from service.caches import SingleFlightCache
from service.errors import InvalidFieldError, ServiceError, UnusableSupportError
from service.images.reading import ImageLimits
from service.supports.names import NAME_PREFIX, cache_key, content_name, owner_and_name
from service.supports.outline import SupportOutline
from service.supports.preparation import prepare_support
from service.supports.prepared_support import PreparedSupport
from service.supports.registry import Health, OwnedName, Page, SupportRegistry, now_nanoseconds, page_size_of
from service.supports.validation import check_support

MAX_RESOURCE_NAME = 200
"""Characters; names of this service have 41."""

MAX_TTL_SECONDS = 10 * 366 * 24 * 3600
"""Longest time to live."""

NANOSECONDS = 10**9

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SupportSource:
    """A support that a query refers to.

    Attributes:
        definition: the support without its images.
        load: reads, decodes and crops the images; called only while nothing of the support is cached.
        complaint: turns an error with field paths relative to the support into the error for the caller.
    """

    definition: SupportOutline
    load: Callable[[], Awaitable[PreparedSupport]]
    complaint: Callable[[InvalidFieldError], ServiceError]


class Supports:
    """The supports of a server: the registry, and a cache of outlines for warm queries.

    Attributes:
        definitions: outlines by key.
        registry_health: last reported health of the registry; None until it has answered once.
    """

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
        max_owner_bytes: int = 0,
        check_words: Callable[[SupportOutline], None] = lambda definition: None,
    ) -> None:
        """Starts with empty caches.

        Args:
            registry: stores supports.
            manifest: has the limits of a support and the size of a crop.
            limits: largest image.
            pool: threads that decode images.
            definition_cache_bytes: memory for outlines.
            max_page_bytes: a page of a list ends before it exceeds this size.
            forget: drops everything computed from a support, given its key.
            known: returns the keys of the supports from which something cached was computed.
            max_owner_bytes: storage quota of an owner in bytes; 0: none.
            check_words: raises InvalidFieldError, relative to the support, where no model can take its texts.
        """
        self._registry = registry
        self._manifest = manifest
        self._limits = limits
        self._pool = pool
        self._max_page_bytes = max_page_bytes
        self._forget_computed = forget
        self._known_computed = known
        self._max_owner_bytes = max_owner_bytes
        self._check_words = check_words
        self.registry_health: Health | None = None
        self.definitions: SingleFlightCache[str, SupportOutline] = SingleFlightCache(definition_cache_bytes, size=_size)

    async def open(self, report: Callable[[Health], None]) -> None:
        """Opens the registry; see `SupportRegistry.open`.

        Raises:
            RegistryError: the registry cannot work with this configuration.
        """

        def reported(health: Health) -> None:
            # Until the first answer nothing is known: a replica without its registry must not become ready.
            if self.registry_health is not None or health != "unavailable":
                self.registry_health = health
            report(health)

        await self._registry.open(self._forget, self._known, reported)

    async def maintain(self) -> None:
        """Keeps caches and registry up to date until cancelled; see `SupportRegistry.maintain`."""
        await self._registry.maintain()

    async def create(self, owner: str, support: support_pb2.Support) -> tuple[support_pb2.Support, bool]:
        """Validates a support, images included, and registers it for `owner` under the name of its content.

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
            # Unknown fields of newer clients have not been validated, so they are not stored.
            checked.DiscardUnknownFields()
            checked.ClearField("create_time")
            _set_expire_time(checked)
            checked.name = definition.name
            return checked

        checked = await self._in_thread(check)
        return await self._registry.create(owner, checked, max_bytes=self._max_owner_bytes)

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
        """Deletes a registered support, and everything computed from it.

        Raises:
            InvalidFieldError: field 'name', not the name of a support.
            NotFoundError: no support of `owner` has that name.
        """
        _checked_name("name", name)
        try:
            await self._registry.delete(owner, name)
        finally:
            # Also if it did not exist: another process may have deleted it while it is still in our memory.
            self._forget([(owner, name)])

    async def registered(self, owner: str, name: str, deadline: float | None = None) -> SupportSource:
        """Looks up a registered support, in memory if it has been used before.

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

        key = cache_key(owner, name)
        definition, cached = await self.definitions.get(key, look_up, deadline)
        if cached and 0 < definition.expire_time <= now_nanoseconds():
            self._forget([(owner, name)])
            definition, _ = await self.definitions.get(key, look_up, deadline)

        async def load() -> PreparedSupport:
            support = await self._registry.get(owner, name, pixels=True)
            try:
                return await self._in_thread(lambda: self._prepare(support, definition))
            except InvalidFieldError as error:
                raise unusable(error) from None

        def unusable(error: InvalidFieldError) -> ServiceError:
            # It was valid when it was registered, but this server serves another model or has other limits.
            return UnusableSupportError(name, f"this server cannot use {name}: {error}")

        return SupportSource(definition, load, unusable)

    async def inline(self, owner: str, support: support_pb2.Support) -> SupportSource:
        """Takes a support that was sent with a query of `owner`.

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

    def _forget(self, supports: Iterable[OwnedName]) -> None:
        """Drops supports that no longer exist, and everything computed from them."""
        for owner, name in supports:
            key = cache_key(owner, name)
            self.definitions.invalidate(key)
            self._forget_computed(key)

    def _known(self) -> set[OwnedName]:
        """The supports that are in memory in any form."""
        return {owner_and_name(key) for key in (*self.definitions.known(), *self._known_computed())}

    def _prepare(self, support: support_pb2.Support, definition: SupportOutline) -> PreparedSupport:
        check_support(support, self._manifest, self._limits)
        return prepare_support(support, definition, self._manifest, self._limits)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _checked_name(field: str, name: str) -> str:
    """Returns a resource name; raises InvalidFieldError for a text that cannot be one."""
    if not len(NAME_PREFIX) < len(name) <= MAX_RESOURCE_NAME or not name.startswith(NAME_PREFIX):
        raise InvalidFieldError(field, f"{name[:50]!r} is not the name of a support, '{NAME_PREFIX}…'")
    return name


def _set_expire_time(support: support_pb2.Support) -> None:
    """Replaces a time to live by the time of expiry.

    Raises:
        InvalidFieldError: field 'ttl' or 'expire_time'.
    """
    now = now_nanoseconds()
    match support.WhichOneof("expiration"):
        case "ttl":
            ttl = support.ttl.seconds * NANOSECONDS + support.ttl.nanos
            if not 0 < ttl <= MAX_TTL_SECONDS * NANOSECONDS:
                raise InvalidFieldError("ttl", f"{ttl / NANOSECONDS:g} s; must be more than 0 and at most 10 years")
            support.expire_time.FromNanoseconds(now + ttl)
        case "expire_time":
            expire = support.expire_time.seconds * NANOSECONDS + support.expire_time.nanos
            if not now < expire <= now + MAX_TTL_SECONDS * NANOSECONDS:
                raise InvalidFieldError("expire_time", "must be in the future, by at most 10 years")
        case _:
            pass


def _size(definition: SupportOutline) -> int:
    """Approximate size of an outline in bytes; Python adds some 50 bytes to a string."""
    texts = (*definition.keypoint_names, *definition.descriptions, *definition.texts)
    return sum(50 + len(text) for text in texts) + definition.edges.nbytes + 500
