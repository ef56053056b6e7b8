"""Modalities of a support: what models may use of it."""

from __future__ import annotations

from cape.v1 import modality_pb2, support_pb2

KNOWN_MODALITIES = (modality_pb2.MODALITY_IMAGE, modality_pb2.MODALITY_TEXT)


def declared_modalities(support: support_pb2.Support) -> tuple[modality_pb2.Modality.ValueType, ...]:
    """The modalities that models may use of a support, ascending, with the default filled in."""
    if support.modalities:
        return tuple(sorted(set(support.modalities)))
    return KNOWN_MODALITIES if support.examples else (modality_pb2.MODALITY_TEXT,)
