"""Logs: one line of text or one JSON object per record, with the id of the request that it belongs to.

A record may have fields of its own for the JSON object: `logger.info(…, extra={"fields": {…}})`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

from cape.terminal import printable
from service.telemetry.request_context import current_request


class TextFormatter(logging.Formatter):
    """A record as one line of text with the request's id at its end. Control characters are escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """See `logging.Formatter.formatMessage`."""
        request = current_request()
        record.message = printable(record.message)
        line = super().formatMessage(record)
        return line if request is None else f"{line} [{request.id}]"


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON.

    Its fields: time, level, logger, message; request_id and trace_id where a request is worked on and traced; those
    that the record brings; and traceback where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request := current_request()) is not None:
            entry["request_id"] = request.id
            if request.trace_id:
                entry["trace_id"] = request.trace_id
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logs(level: str, form: Literal["text", "json"]) -> None:
    """Sends the logs of this program to standard error.

    Args:
        level: least severity, such as 'info'.
        form: lines for people or JSON.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Pillow reports every chunk of every file at debug.
    logging.getLogger("PIL").setLevel(logging.INFO)
