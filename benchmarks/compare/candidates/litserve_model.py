"""LitServe around the PyTorch model.

`python -m benchmarks.compare.candidates.litserve_model PORT full|kept SOURCE PATH`

Follows LitServe's documentation: an API class with batching, the model loaded in `setup`. SOURCE is 'checkpoint' or
'untrained'. `decode_request` decodes and crops images; the support image is decoded once, at start.
"""

# No postponed annotations here: LitServe reads the types of a request and an answer from those of the methods below.
import base64
import io
import itertools
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer

from benchmarks.compare.candidates.pytorch import load_source
from benchmarks.harness.workloads import workload
from cape.predictor import Predictor
from cape.support import Box, Modality

MAX_BATCH = 8
"""4, 8 and 16 differ little: PyTorch gains almost nothing from larger batches on CPUs."""


class PoseAPI(litserve.LitAPI):
    """Estimates poses. The support image belongs to the server, its texts to every request."""

    def __init__(self, kept: bool, source: str, path: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=0.01)
        self.kept, self.source, self.path = kept, source, path

    def setup(self, device: str) -> None:
        """Loads the model, and encodes the support where it is kept."""
        checkpoint = load_source(self.source, self.path)
        self.predictor, self.system = Predictor(checkpoint), checkpoint.system
        configuration = checkpoint.system.configuration
        self.reads_text, self.reads_images = configuration.reads_text, configuration.reads_images
        reads: dict[Modality, bool] = {"image": self.reads_images, "text": self.reads_text}
        self.work = workload(modalities=tuple(modality for modality, read in reads.items() if read))
        if self.reads_text:
            self.tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer))
            self.tokenizer.enable_padding()
        self.support = self.predictor.encode_support(self.work.support)
        self._prepare_example()

    def _prepare_example(self) -> None:
        """The support image as model input, [1, 1, …]."""
        if not self.reads_images:
            return
        example = self.work.support.examples[0]
        assert example.box is not None
        with Image.open(Path(str(example.image))) as image:
            pixels = np.array(image.convert("RGB"))
        crop = self.predictor.crop(example.box, pixels)
        self.example = torch.from_numpy(crop.extract(pixels))[None, None]
        points = crop.to_crop(example.keypoints)
        seen = np.all((points >= 0) & (points <= 1), axis=1)
        self.keypoints = torch.from_numpy(np.where(np.expand_dims(seen, 1), points, 0).astype(np.float32))[None, None]
        self.visible = torch.from_numpy(seen.astype(np.float32))[None, None]

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Converts JSON to a crop and the request's texts."""
        with Image.open(io.BytesIO(base64.b64decode(request["image"]))) as image:
            pixels = np.array(image.convert("RGB"))
        crop = self.predictor.crop(Box(*request["box"]), pixels)
        return {"crop": crop, "pixels": crop.extract(pixels), "number": request["number"]}

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leaves the batch as a list; `predict` stacks it."""
        return inputs

    def predict(self, inputs: list[dict[str, Any]]) -> list[npt.NDArray[np.float32]]:
        """Returns keypoints in pixels of the images."""
        count = len(inputs)
        if self.kept:
            features = self.predictor.encode_crops([one["pixels"] for one in inputs])
            pose = self.predictor.decode(features, self.support)
        else:
            tensors: dict[str, torch.Tensor] = {"adjacency": self.support.adjacency.expand(count, -1, -1)}
            if self.reads_images:
                tensors["support"] = self.example.expand(count, *self.example.shape[1:])
                tensors["keypoints"] = self.keypoints.expand(count, -1, -1, -1)
                tensors["visible"] = self.visible.expand(count, -1, -1)
            if self.reads_text:
                tensors |= self._tokens([one["number"] for one in inputs])
            with torch.inference_mode():
                pose = self.system(torch.from_numpy(np.stack([one["pixels"] for one in inputs])), **tensors)
        found = pose.keypoints.numpy()
        return [one["crop"].to_image(points) for one, points in zip(inputs, found, strict=True)]

    def _tokens(self, numbers: list[int]) -> dict[str, torch.Tensor]:
        """Token ids and mask, [B, K, T] each."""
        supports = [self.work.unseen(number) if number else self.work.support for number in numbers]
        texts = [keypoint.description or keypoint.name for support in supports for keypoint in support.keypoints]
        encodings = self.tokenizer.encode_batch(texts)
        shape = (len(numbers), len(texts) // len(numbers), -1)
        return {
            "input_ids": torch.tensor([one.ids for one in encodings]).reshape(shape),
            "attention_mask": torch.tensor([one.attention_mask for one in encodings]).reshape(shape),
        }

    def unbatch(self, output: list[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
        """See `batch`."""
        return output

    def encode_response(self, output: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Keypoints as JSON."""
        return {"keypoints": output.tolist()}


def main() -> None:
    """Serves until terminated."""
    port, support, source, path = itertools.islice(sys.argv, 1, 5)
    server = litserve.LitServer(PoseAPI(support == "kept", source, Path(path)), accelerator="cpu", timeout=300)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning", num_api_servers=1)


if __name__ == "__main__":
    main()
