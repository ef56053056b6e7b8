"""When certificates expire, read from their PEM files (RFC 5280, section 4.1)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

BEGIN = "-----BEGIN CERTIFICATE-----"
END = "-----END CERTIFICATE-----"

UTC_TIME, SEQUENCE, CONTEXT_0 = 0x17, 0x30, 0xA0
"""Tags of DER: a date with a year of two digits, a sequence, and the version of a certificate."""


def earliest_expiry(paths: list[Path]) -> float:
    """When the first certificate of some PEM files expires, in seconds since 1970; NaN if none can be read."""
    dates = [date for path in paths for date in _expiries(path)]
    return min(dates, default=float("nan"))


def _expiries(path: Path) -> Iterator[float]:
    try:
        text = path.read_text(encoding="ascii")
        for block in text.split(BEGIN)[1:]:
            body = block.partition(END)[0]
            yield _not_after(ssl.PEM_cert_to_DER_cert(f"{BEGIN}{body}{END}"))
    except (OSError, ValueError, IndexError):
        return


def _not_after(der: bytes) -> float:
    """The date notAfter of a certificate in DER."""
    _, certificate, _ = _element(der, 0)
    _, body, _ = _element(certificate, 0)
    at = 0
    tag, _, end = _element(body, at)
    if tag == CONTEXT_0:
        at = end
    for _ in range(3):  # serialNumber, signature, issuer
        _, _, at = _element(body, at)
    _, validity, _ = _element(body, at)
    _, _, at = _element(validity, 0)
    tag, value, _ = _element(validity, at)
    text = value.decode("ascii")
    if tag == UTC_TIME:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(data: bytes, at: int) -> tuple[int, bytes, int]:
    """One DER element: its tag, its content and where the next one begins."""
    tag, length, at = data[at], data[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length = int.from_bytes(data[at : at + octets], "big")
        at += octets
    return tag, data[at : at + length], at + length
