"""Facts about the current call for its log line: model, boxes, stage times, and the error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.telemetry.request_context import current_request


def query_answered(model: str, boxes: int, stages: Mapping[Any, float], *, cached: bool) -> None:
    """Adds an answered query to the current call. Batches and streams add up their queries.

    Args:
        model: system that answered.
        boxes: boxes of the query.
        stages: seconds by stage.
        cached: whether the support's tokens were cached.
    """
    request = current_request()
    if request is None:
        return
    facts = request.facts
    models = facts.setdefault("models", [])
    if model not in models:
        models.append(model)
    facts["queries"] = facts.get("queries", 0) + 1
    facts["boxes"] = facts.get("boxes", 0) + boxes
    facts["warm"] = facts.get("warm", 0) + cached
    times = facts.setdefault("stages_ms", {})
    for stage, seconds in stages.items():
        times[stage] = round(times.get(stage, 0.0) + seconds * 1e3, 1)


def item_failed(code: str) -> None:
    """Adds a failed item of a batch or stream to the current call."""
    if (request := current_request()) is not None:
        failed = request.facts.setdefault("failed", {})
        failed[code] = failed.get(code, 0) + 1


def text_of(facts: Mapping[str, Any]) -> str:
    """The facts of a call as `name=value` pairs, for logs that people read."""
    parts = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            text = ",".join(f"{key}:{each:g}" for key, each in value.items())
        elif isinstance(value, list):
            text = ",".join(map(str, value))
        else:
            text = repr(value) if isinstance(value, str) else str(value)
        parts.append(f"{name}={text}")
    return " ".join(parts)
