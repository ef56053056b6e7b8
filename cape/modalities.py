"""What of a support a system uses: its example images, its texts, or both."""

from __future__ import annotations

from cape.configuration import SystemConfiguration
from cape.manifest import Modalities, ModalityUse
from cape.support import Modality, SupportDefinition


class MissingModalityError(ValueError):
    """A support that lacks what a system needs."""


def modality_rule(configuration: SystemConfiguration) -> Modalities:
    """What a support must bring for a system."""
    both_needed = configuration.system == "flf" and not configuration.modality_dropout
    reads_both = configuration.reads_images and configuration.reads_text
    use: ModalityUse = "optional" if reads_both and not both_needed else "required"
    return Modalities(
        image=use if configuration.reads_images else "unused",
        text=use if configuration.reads_text else "unused",
    )


def usable_modalities(configuration: SystemConfiguration, support: SupportDefinition) -> tuple[Modality, ...]:
    """What a system uses of a support: all that both have.

    Raises:
        MissingModalityError: what the system needs is missing, or there is nothing of what it may choose from.
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
