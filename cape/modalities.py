"""Selects the modalities of a support that a system uses: example images, texts, or both."""

from __future__ import annotations

from cape.configuration import SystemConfiguration
from cape.manifest import Modalities, ModalityUse
from cape.support import Modality, SupportDefinition


class MissingModalityError(ValueError):
    """A support lacks a modality that the system needs."""


def modality_rule(configuration: SystemConfiguration) -> Modalities:
    """Returns the modalities that a system requires of a support."""
    both_needed = configuration.system == "flf" and not configuration.modality_dropout
    reads_both = configuration.reads_images and configuration.reads_text
    use: ModalityUse = "optional" if reads_both and not both_needed else "required"
    return Modalities(
        image=use if configuration.reads_images else "unused",
        text=use if configuration.reads_text else "unused",
    )


def usable_modalities(configuration: SystemConfiguration, support: SupportDefinition) -> tuple[Modality, ...]:
    """Returns the modalities that the system uses and the support has.

    Raises:
        MissingModalityError: a required modality is missing, or all optional ones are.
    """
    rule = modality_rule(configuration)
    allowed: tuple[Modality, ...] = support.modalities or ("image", "text")
    uses: dict[Modality, ModalityUse] = {"image": rule.image, "text": rule.text}
    nouns: dict[Modality, str] = {"image": "example images", "text": "texts"}
    present = {"image": "image" in allowed and bool(support.examples), "text": "text" in allowed}
    missing = [modality for modality, use in uses.items() if use == "required" and not present[modality]]
    usable = tuple(modality for modality, use in uses.items() if use != "unused" and present[modality])
    if missing or not usable:
        lacking = " and ".join(nouns[modality] for modality in missing) or "example images or texts"
        raise MissingModalityError(f"{configuration.system} needs {lacking}; the support has none to use")
    return usable
