"""One graph → one engine, with either edition: their Python interfaces are the same."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from export.graph import ExportError
from export.tensorrt.profiles import Profile

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build.

    Attributes:
        compute_capabilities: constants of the bindings; empty for the card in this machine.
        strip_weights: leave out of the engine what the ONNX file holds; whoever loads it refits it from there.
        timing_cache: measurements of kernels from earlier builds, which this build begins with; None for none. Used by
            TensorRT proper, which measures on the card.
    """

    compute_capabilities: Sequence[Any] = ()
    strip_weights: bool = False
    timing_cache: bytes | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of an engine: name, TensorRT's type ("HALF"), shape with -1 where dynamic."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the network that was built: networks are strongly typed, so these are the engine's types.

    Attributes:
        name: the ONNX node's.
        kind: TensorRT's type of layer: "MATRIX_MULTIPLY".
        inputs, outputs: types of its tensors.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Engine:
    """A built engine and what went into it.

    Attributes:
        plan: the serialised engine.
        inputs, outputs: its tensors.
        layers: of the network, in its order.
        timing_cache: measurements to begin the next build with; None where the edition makes none.
    """

    plan: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    timing_cache: bytes | None

    @property
    def products(self) -> dict[str, int]:
        """How many matrix products and convolutions run in which type."""
        kinds = ("MATRIX_MULTIPLY", "CONVOLUTION")
        return dict(Counter(layer.inputs[0] for layer in self.layers if layer.kind in kinds))


def build_engine(
    bindings: Any, graph: bytes, profiles: Sequence[Profile], options: BuildOptions, *, folder: str | None = None
) -> Engine:
    """Builds an engine.

    Args:
        bindings: the module of an edition, see `load_bindings`.
        graph: an ONNX graph whose types say the precision.
        profiles: shapes to build for.
        options: how.
        folder: where weights beside the graph are looked for.

    Raises:
        ExportError: the graph is not understood, or the build fails; with TensorRT's own words.
    """
    log = _make_log(bindings)
    builder = bindings.Builder(log)
    if builder is None:
        raise ExportError(f"no builder: {log.last}")
    # Strongly typed: precision is what the graph says; the RTX edition knows nothing else, and 11 neither.
    strongly_typed = getattr(bindings.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = bindings.OnnxParser(network, log)
    if not parser.parse(graph, folder):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise ExportError(f"TensorRT does not understand the graph: {errors or log.last}")
    configuration = builder.create_builder_config()
    configuration.profiling_verbosity = bindings.ProfilingVerbosity.DETAILED
    if options.compute_capabilities:
        configuration.num_compute_capabilities = len(options.compute_capabilities)
        for index, capability in enumerate(options.compute_capabilities):
            configuration.set_compute_capability(capability, index)
    if options.strip_weights:
        configuration.set_flag(bindings.BuilderFlag.STRIP_PLAN)
        configuration.set_flag(bindings.BuilderFlag.REFIT_IDENTICAL)
    cache = None
    if options.timing_cache is not None:
        cache = configuration.create_timing_cache(options.timing_cache)
        configuration.set_timing_cache(cache, ignore_mismatch=False)
    for profile in profiles:
        optimisation = builder.create_optimization_profile()
        for name, shapes in profile.shapes.items():
            optimisation.set_shape(name, *shapes)
        configuration.add_optimization_profile(optimisation)
    inputs = tuple(_tensor(network.get_input(index)) for index in range(network.num_inputs))
    outputs = tuple(_tensor(network.get_output(index)) for index in range(network.num_outputs))
    layers = tuple(_layer(network.get_layer(index)) for index in range(network.num_layers))
    plan = builder.build_serialized_network(network, configuration)
    if plan is None:
        raise ExportError(f"TensorRT cannot build the engine: {log.last}")
    return Engine(
        bytes(plan),
        inputs,
        outputs,
        layers,
        None if cache is None else bytes(configuration.get_timing_cache().serialize()),
    )


def _make_log(bindings: Any) -> Any:
    """A TensorRT logger that writes to ours and remembers the last error, which exceptions do not carry."""

    class Log(bindings.ILogger):
        last = "it did not say why"

        def __init__(self) -> None:
            bindings.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= bindings.ILogger.ERROR:
                self.last = message
                logger.error("%s", message)
            elif severity == bindings.ILogger.WARNING:
                logger.info("%s", message)
            else:
                logger.debug("%s", message)

    return Log()


def _tensor(tensor: Any) -> Tensor:
    return Tensor(tensor.name, tensor.dtype.name, tuple(tensor.shape))


def _layer(layer: Any) -> Layer:
    sources = (layer.get_input(index) for index in range(layer.num_inputs))
    return Layer(
        layer.name,
        layer.type.name,
        tuple(source.dtype.name for source in sources if source is not None),
        tuple(layer.get_output(index).dtype.name for index in range(layer.num_outputs)),
    )
