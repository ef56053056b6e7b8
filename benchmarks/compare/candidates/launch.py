"""Starts the candidates, and records which of them cannot run here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare.candidates import AbsentError, Candidate, queries
from benchmarks.compare.candidates.capeserve import served, through_triton
from benchmarks.compare.candidates.litserve import litserve
from benchmarks.compare.candidates.pytorch import compiled, eager, load_source
from benchmarks.compare.measurement import Plan, Result, measure
from benchmarks.harness.serving import Serve
from benchmarks.harness.workloads import used_modalities, workload
from cape.manifest import read_manifest
from service.engines.choice import EngineName, installed_engines

QUERIES = 4

LABELS: dict[EngineName, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


class MismatchError(ValueError):
    """The repository was not exported from the checkpoint."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which candidates to start.

    Attributes:
        repositories: exported from one checkpoint, one per precision.
        source: 'checkpoint' or 'untrained', and its path.
        engines: of capeserve; empty for all that are installed.
        without: candidates to leave out: 'eager', 'compile', 'litserve', 'triton'.
    """

    repositories: tuple[Path, ...]
    source: tuple[str, Path]
    engines: tuple[EngineName, ...]
    without: frozenset[str]


class LaunchedCandidates:
    """The running candidates.

    Attributes:
        absent: candidates that could not start, and why.
        described: the model.
    """

    def __init__(self, choice: Choice, serve: Serve, stack: ExitStack, progress: Callable[[str], None]) -> None:
        """Starts the candidates; the stack stops them when it unwinds.

        Raises:
            MismatchError: a repository was exported from another checkpoint.
        """
        self.absent: dict[str, str] = {}
        self._stack, self._progress = stack, progress
        checkpoint = load_source(*choice.source)
        manifests = {repository: read_manifest(repository) for repository in choice.repositories}
        for repository, manifest in manifests.items():
            if manifest.source.sha256 != checkpoint.sha256:
                raise MismatchError(f"{repository} was not exported from {choice.source[1]}: other weights")
        configuration = checkpoint.system.configuration
        first = manifests[choice.repositories[0]]
        work = workload(modalities=used_modalities(next(iter(first.systems.values()))))
        self._box = max(work.boxes[0].width, work.boxes[0].height)
        self._asked = queries(work, QUERIES)
        self.described = {
            "system": configuration.system,
            "backbone": configuration.backbone.name,
            "text_encoder": configuration.text.name if configuration.text else "",
        }
        self.candidates: list[Candidate] = []
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if "eager" not in choice.without:
            self._add("PyTorch eager", eager(checkpoint, self._asked))
        if "compile" not in choice.without:
            self._add("torch.compile", compiled(lambda: load_source(*choice.source), self._asked))
        if "litserve" not in choice.without:
            for support in ("computed", "kept"):
                log = scratch / f"litserve-{support}.log"
                self._add(f"LitServe, support {support}", litserve(support, choice.source, self._asked, log))
        for repository in choice.repositories:
            for engine in choice.engines or installed_engines():
                label = LABELS[engine]
                self._add_all(label, served(repository, serve, {"engine": engine}, self._asked, label))
        if "triton" not in choice.without:
            self._add_all("Triton", through_triton(choice.repositories[0], serve, self._asked, scratch / "triton.log"))

    def measure(self, plan: Plan, step: Callable[[list[Result]], None]) -> list[Result]:
        """See `benchmarks.compare.measurement.measure`."""

        def told(results: list[Result]) -> None:
            self._progress(f"{sum(len(one.rates) for one in results)} load runs done")
            step(results)

        return measure(self.candidates, plan, QUERIES, self._box, told)

    def _add(self, name: str, opening: AbstractContextManager[Candidate]) -> None:
        self._progress(f"starting {name}")
        try:
            self.candidates.append(self._stack.enter_context(opening))
        except AbsentError as error:
            self.absent[name] = str(error)

    def _add_all(self, name: str, opening: AbstractContextManager[list[Candidate]]) -> None:
        self._progress(f"starting capeserve, {name}")
        try:
            self.candidates += self._stack.enter_context(opening)
        except AbsentError as error:
            self.absent[f"capeserve, {name}"] = str(error)
