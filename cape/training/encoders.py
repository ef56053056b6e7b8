"""A frozen backbone as a function from crops to features, as fast as this machine has it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn

from cape.models.backbone import ImageBackbone
from cape.models.system import System

Encoder: TypeAlias = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float16]]
"""Crops uint8 [B, H, W, 3] → features float16 [B, C, F, F]."""


WORTH_EXPORTING = 4000
"""Images from which on ONNX Runtime's speed makes up for the time that the export takes, half a minute."""


class EncodingPart(nn.Module):
    """A backbone, or its first blocks.

    Args:
        backbone: all of it.
        blocks: how many blocks; 0: all of it.
    """

    def __init__(self, backbone: ImageBackbone, blocks: int = 0) -> None:
        super().__init__()
        self._backbone = backbone
        self._blocks = blocks

    def forward(self, image: Tensor) -> Tensor:
        """Crops uint8 [B, H, W, 3] → features, or the map that the blocks give."""
        return self._backbone.begin(image, self._blocks) if self._blocks else self._backbone(image)


class BackboneEncoders:
    """The backbone of a model, in evaluation mode, as an `Encoder` for so many images.

    For many images on a CPU it runs in ONNX Runtime, which folds normalisation into convolutions: three times as
    fast as PyTorch for EfficientNet-Lite0, and the same features up to rounding.

    Args:
        system: the model; its backbone must not change.
        device: where it is and runs.
        blocks: only so many blocks of it, from the image on; 0: all of it.
    """

    def __init__(self, system: System, device: torch.device, blocks: int = 0) -> None:
        self._backbone = EncodingPart(system.image_backbone, blocks)
        self._image_size = system.configuration.backbone.image_size
        self._device = device
        self._exported: Encoder | None = None

    def __call__(self, images: int) -> Encoder:
        """The encoder that is the fastest for a number of images."""
        if self._device.type != "cpu" or images < WORTH_EXPORTING:
            return self._encode
        if self._exported is None:
            self._exported = onnx_encoder(self._backbone, self._image_size, torch.get_num_threads())
        return self._exported

    def _encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
        backbone = self._backbone
        was_training = backbone.training
        with torch.inference_mode():
            features = backbone.eval()(torch.from_numpy(images).to(self._device))
        backbone.train(was_training)
        return np.asarray(features.half().cpu().numpy())


def onnx_encoder(backbone: EncodingPart, size: int, threads: int) -> Encoder:
    """A backbone for crops of so many pixels on the CPU, in ONNX Runtime with so many threads."""
    was_training = backbone.training
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            backbone.eval(),
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
            input_names=["image"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("B", min=1, max=1024)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    backbone.train(was_training)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def encode(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
        return np.asarray(session.run(None, {"image": images})[0], dtype=np.float16)

    return encode
