"""Metrics of a support registry, whichever kind it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from service.errors import InvalidFieldError, NotFoundError, StorageFullError, StorageQuotaError
from service.supports.registry import SupportRegistry
from service.telemetry.metrics import Metrics, RegistryOperation, RegistryOutcome
from service.telemetry.spans import span

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ObservedRegistry:
    """Counts and times the calls of a registry. Implements `SupportRegistry`."""

    def __init__(self, registry: SupportRegistry, metrics: Metrics) -> None:
        """Takes the registry, which it does not close by itself, and the metrics."""
        self._metrics = metrics
        self.create = self._observed("create", registry.create)
        self.get = self._observed("get", registry.get)
        self.list = self._observed("list", registry.list)
        self.delete = self._observed("delete", registry.delete)
        self.open = registry.open
        self.maintain = registry.maintain
        self.everything = registry.everything
        self.restore = registry.restore
        self.close = registry.close

    def _observed(
        self, operation: RegistryOperation, call: Callable[Parameters, Coroutine[Any, Any, Result]]
    ) -> Callable[Parameters, Coroutine[Any, Any, Result]]:
        async def observed(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            started = time.perf_counter()
            outcome: RegistryOutcome = "error"
            try:
                with span(f"registry {operation}"):
                    result = await call(*args, **kwargs)
                outcome = "ok"
                return result
            except NotFoundError:
                outcome = "not_found"
                raise
            except InvalidFieldError:
                outcome = "invalid"
                raise
            except StorageFullError:
                outcome = "full"
                raise
            except StorageQuotaError:
                outcome = "quota"
                raise
            except asyncio.CancelledError:
                outcome = "cancelled"
                raise
            finally:
                self._metrics.registry_called(operation, outcome, time.perf_counter() - started)

        return observed
