"""What a Triton server must serve for a repository, and how a row travels to it and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from cape.manifest import QUERY_SUFFIX, Manifest, TensorSpec
from service.engines.tensors import check_finite, check_tensors, wanted_tensors
from service.errors import EngineError

VERSION = "1"
"""The version that the manifest describes."""

DATA_TYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32", "float16": "FP16"}
"""numpy's names → the KServe protocol's."""


class TritonModel(NamedTuple):
    """A model that Triton must serve.

    Attributes:
        inputs, outputs: of the manifest; the first axis is the batch.
        identity: parameter of its configuration that says which weights it has, and what that must be.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    identity: tuple[str, str]


def triton_models(manifest: Manifest) -> dict[str, TritonModel]:
    """Every component, and of every system that has one the ensemble for queries, by name."""
    models = {
        name: TritonModel(component.inputs, component.outputs, ("sha256", component.sha256))
        for name, component in manifest.components.items()
    }
    for name, system in manifest.support_systems.items():
        backbone = manifest.components[system.components["image_backbone"]]
        decoder = manifest.components[system.components["pose_decoder"]]
        inputs = (*backbone.inputs, *(spec for spec in decoder.inputs if spec.name != "features"))
        models[f"{name}{QUERY_SUFFIX}"] = TritonModel(inputs, decoder.outputs, ("version", manifest.version(name)))
    return models


def request_of(
    name: str, model: TritonModel, row: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]
) -> service_pb2.ModelInferRequest:
    """A row as a request of batch size 1.

    Args:
        name: of the model.
        model: describes it.
        row: arrays by input name, without batch axis.
        outputs: names of the wanted outputs.

    Raises:
        EngineError: the row is not what the model takes.
    """
    batch = {key: array[np.newaxis] for key, array in row.items()}
    check_tensors(name, model.inputs, batch, {})
    wanted_tensors(name, model.outputs, outputs)
    request = service_pb2.ModelInferRequest(model_name=name, model_version=VERSION)
    for spec in model.inputs:
        request.inputs.add(name=spec.name, datatype=DATA_TYPES[spec.dtype], shape=batch[spec.name].shape)
        request.raw_input_contents.append(batch[spec.name].tobytes())
    for output in outputs:
        request.outputs.add(name=output)
    return request


def row_of(
    name: str,
    model: TritonModel,
    row: Mapping[str, npt.NDArray[Any]],
    outputs: Sequence[str],
    answer: service_pb2.ModelInferResponse,
) -> dict[str, npt.NDArray[Any]]:
    """The outputs of an answer, without batch axis; views of the message.

    Raises:
        EngineError: outputs are missing, or not of the shape that the manifest gives them for this row.
    """
    specs = wanted_tensors(name, model.outputs, outputs)
    types = {spec.name: np.dtype(spec.dtype) for spec in specs}
    arrays: dict[str, npt.NDArray[Any]] = {}
    for output, content in zip(answer.outputs, answer.raw_output_contents, strict=False):
        if output.name in types and output.datatype == DATA_TYPES[types[output.name].name]:
            try:
                arrays[output.name] = np.frombuffer(content, types[output.name]).reshape(tuple(output.shape))
            except ValueError as error:
                raise EngineError(name, f"{output.name}: {error}") from None
    sizes: dict[str, int] = {}
    check_tensors(name, model.inputs, {key: array[np.newaxis] for key, array in row.items()}, sizes)
    check_tensors(name, specs, arrays, sizes)
    check_finite(name, arrays)
    return {key: array[0] for key, array in arrays.items()}
