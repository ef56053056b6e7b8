"""`capeserve demo`: from a checkpoint to answers over gRPC, with images and a latency table."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console

from cape import __version__
from cape.annotations import AnnotationError, read_support
from cape.client import Box, CapeError, Client, PoseInstance, SupportDefinition, SupportExample
from cape.manifest import Manifest, ManifestError, read_manifest
from cli.consoles import console, step_progress
from cli.server_process import ServerStartError, server_process

PAIRS = (("astronaut", "grace_hopper"), ("grace_hopper", "astronaut"), ("cat", "raccoon"), ("raccoon", "cat"))
"""Annotation files of the examples: a support, and a query with ground truth."""

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

EPISODES, QUERIES = 2, 4
"""Pairs per unseen category: enough for a figure within seconds. `capeserve evaluate` uses more."""

FAILURES = 2
"""Images of the worst predictions to draw."""

UNTRAINED = "Untrained model: the positions mean nothing"

_FOLDER = click.Path(file_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class _Demonstration:
    """Shared by the steps of the demonstration.

    Attributes:
        client: connected to the server.
        supports: annotation of each image, by name.
        names: resource name of each, once registered.
        manifest: of the served repository.
        output: for images and tables.
        out: console to print to.
    """

    client: Client
    supports: dict[str, SupportDefinition]
    names: dict[str, str]
    manifest: Manifest
    output: Path
    out: Console


@click.command()
@click.option("--output", type=_FOLDER, default="demo", show_default=True, help="Output folder.")
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Checkpoint to run.  [default: `checkpoint` in the folder of the examples]",
)
@click.option("--examples", type=_FOLDER, default=EXAMPLES, help="Folder of the example images and annotations.")
@click.option("--requests", type=click.IntRange(min=20), default=20, show_default=True, help="Requests to measure.")
@click.option("--serve", is_flag=True, help="Leave the server running instead of drawing images.")
@click.option("--port", type=int, default=50051, show_default=True, help="Port of the server, with --serve.")
def demo(output: Path, checkpoint: Path | None, examples: Path, requests: int, serve: bool, port: int) -> None:
    """Export a model, serve it, register supports and find their keypoints in other images."""
    out = console()
    try:
        output.mkdir(parents=True, exist_ok=True)
        supports = {name: read_support(examples / f"{name}.yaml") for pair in PAIRS for name in pair}
        repository = output / "repository"
        manifest = _export(checkpoint or examples / "checkpoint", repository, out)
        out.print("starting the server")
        log = None if serve else output / "server.log"
        with server_process(repository, port=port if serve else 0, log=log) as (process, target):
            with Client(target) as client:
                names = {name: client.create_support(support).name for name, support in supports.items()}
                if not serve:
                    demonstration = _Demonstration(client, supports, names, manifest, output, out)
                    _estimate(demonstration)
                    if manifest.source.trained:
                        _score(demonstration, target)
                    _measure(demonstration, requests)
                    out.print("mark keypoints of your own in a browser: make playground, or capeserve playground")
                    return
            _say_how_to_call(target, names, examples, output, out)
            try:
                if process.wait() != 0:
                    raise ServerStartError("the server ended; its output says why")
            except KeyboardInterrupt:
                out.print("stopping the server")
    except (AnnotationError, CapeError, ManifestError, OSError, ServerStartError) as error:
        raise click.ClickException(" ".join(str(error).split())) from None


def _export(checkpoint: Path, repository: Path, out: Console) -> Manifest:
    """Exports the checkpoint, unless this version has exported it before."""
    try:
        from cape.checkpoints import CheckpointError, load_checkpoint
        from cape.pretrained.packages import PretrainedError
        from export.graph import ExportError
        from export.repository import export_repository
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[demo,export,serve]'") from None
    try:
        loaded = load_checkpoint(checkpoint)
        kept = _kept(repository)
        if kept is not None and (kept.source.sha256, kept.capeserve_version) == (loaded.sha256, __version__):
            out.print(f"{repository} was exported from it before")
            return kept
        out.print(f"exporting {checkpoint} to {repository}")
        with step_progress() as progress:
            return export_repository(loaded, repository, force=True, progress=progress).manifest
    except (CheckpointError, ExportError, PretrainedError) as error:
        raise click.ClickException(str(error)) from None


def _kept(repository: Path) -> Manifest | None:
    """The manifest of a repository; None if this version cannot read one there."""
    try:
        return read_manifest(repository)
    except ManifestError:
        return None


def _estimate(demonstration: _Demonstration) -> None:
    """Estimates every pair and draws support and answer side by side."""
    from cape.drawing import side_by_side, write_image

    banner = None if demonstration.manifest.source.trained else UNTRAINED
    for support_name, query_name in PAIRS:
        support, truth = demonstration.supports[support_name], demonstration.supports[query_name]
        shot, query = support.examples[0], truth.examples[0]
        assert query.image is not None
        name = demonstration.names[support_name]
        pose = demonstration.client.estimate(query.image, name, boxes=[_box(query)])
        (instance,) = pose.instances
        picture = side_by_side(
            [
                (f"support: {support_name}", _draw(shot, support, shot.keypoints, None, shot.visible)),
                (
                    f"query: {query_name}, as {pose.provenance.model} sees it",
                    _draw(query, support, instance.keypoints, instance.scores, instance.located),
                ),
            ],
            banner=banner,
        )
        path = demonstration.output / f"{support_name}_to_{query_name}.png"
        write_image(picture, path)
        error = f"mean error {_mean_error(instance, query) * 100:.1f} % of the box"
        demonstration.out.print(f"wrote {path}: {error}{f' ({banner.lower()})' if banner else ''}")


def _draw(
    photograph: SupportExample,
    support: SupportDefinition,
    keypoints: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32] | None,
    located: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint8]:
    """The part of an image around its box, with keypoints."""
    from cape.drawing import draw_pose, read_image

    assert photograph.image is not None
    box = _box(photograph)
    margin = 0.3 * max(box.width, box.height)
    around = Box(box.x - margin, box.y - margin, box.width + 2 * margin, box.height + 2 * margin)
    return draw_pose(
        read_image(photograph.image),
        keypoints,
        support.names,
        skeleton=support.skeleton,
        scores=scores,
        located=located,
        box=box,
        focus=around,
    )


def _box(example: SupportExample) -> Box:
    if example.box is None:
        raise AnnotationError("the demonstration's annotations need a box")
    return example.box


def _mean_error(instance: PoseInstance, truth: SupportExample) -> float:
    """Mean distance from the ground truth as a fraction of the box's longer side, over keypoints that both locate."""
    both = instance.located & truth.visible
    distances = np.linalg.norm(instance.keypoints - truth.keypoints, axis=1)[both]
    return float(distances.mean() / max(instance.box.width, instance.box.height))


def _score(demonstration: _Demonstration, target: str) -> None:
    """Measures the running service on unseen categories, and draws its failures."""
    from cape.data.sources import SyntheticSource, open_dataset
    from cape.drawing import write_image
    from cape.evaluation.configuration import EvaluationConfiguration
    from cape.evaluation.evaluation import evaluate
    from cape.evaluation.pictures import prediction_pictures
    from cape.evaluation.reliability import reliability_diagram
    from cape.evaluation.report import RELIABILITY_FILE, markdown
    from cape.evaluation.service import ServiceEstimator

    data = SyntheticSource(kind="synthetic", split="test", objects_per_category=EPISODES * (1 + QUERIES))
    configuration = EvaluationConfiguration(target=target, data=data, episodes=EPISODES, queries=QUERIES)
    dataset = open_dataset(data)
    with contextlib.closing(ServiceEstimator(target)) as estimator, step_progress() as progress:
        evaluation = evaluate(dataset, estimator, configuration, progress)
    scores = evaluation.overall
    demonstration.out.print(
        f"through the running service, on {len(evaluation.categories)} unseen synthetic categories, "
        f"{evaluation.plan.pairs} pairs: PCK@0.2 {100 * scores.pck_at(0.2):.1f} %, "
        f"PCK@0.05 {100 * scores.pck_at(0.05):.1f} %"
    )
    drawn = []
    for title, name, picture in prediction_pictures(evaluation.run.results, dataset, FAILURES):
        if name.startswith("worst"):
            path = demonstration.output / name.replace("worst", "failure")
            write_image(picture, path)
            demonstration.out.print(f"wrote {path}: {title}")
            drawn.append((title, path.name))
    write_image(reliability_diagram(evaluation.calibration), demonstration.output / RELIABILITY_FILE)
    path = demonstration.output / "accuracy.md"
    path.write_text(markdown(evaluation, drawn), encoding="utf-8")
    demonstration.out.print(f"wrote {path}")


def _measure(demonstration: _Demonstration, requests: int) -> None:
    """Prints the latency table, and writes it as Markdown."""
    from benchmarks.harness.machine import describe_machine
    from benchmarks.latency.live_server import latency_markdown, latency_table, measure_latency
    from cape.client import PaperFigures
    from service.telemetry.performance import PAPER

    client, manifest = demonstration.client, demonstration.manifest
    demonstration.out.print(f"measuring {requests} warm and {requests} cold requests")
    query = demonstration.supports["grace_hopper"].examples[0]
    assert query.image is not None
    support = demonstration.supports["astronaut"]
    latency = measure_latency(client, query.image, _box(query), support, requests)
    model = next(model for model in client.models() if model.is_default)
    row = PAPER.get(model.system)
    paper = PaperFigures(row.seconds, row.frames_per_second) if row is not None else None
    parameters = manifest.systems[model.system].parameters / 1e6
    notes = [
        f"This machine: {describe_machine()}; {model.engine}, {model.precision}.",
        f"This model: {model.system}, {model.backbone} and {model.text_encoder}, {parameters:.1f} M parameters.",
        "Warm: the support was encoded before. Cold: each request brings a support that the server has never seen; "
        "its photograph and texts are encoded too, as in the paper's measurement.",
    ]
    if paper is not None:
        notes.append(
            "The paper's row: the same system with Swin V2-S and gte-base, 195.7 M parameters, on an RTX 3060."
        )
    if not manifest.source.trained:
        notes.append(f"{UNTRAINED}; latency does not depend on that.")
    demonstration.out.print(latency_table(latency, paper, notes))
    path = demonstration.output / "latency.md"
    path.write_text(latency_markdown(latency, paper, notes), encoding="utf-8")
    demonstration.out.print(f"wrote {path}")


def _say_how_to_call(target: str, names: dict[str, str], examples: Path, output: Path, out: Console) -> None:
    """Prints the registered supports, and two commands to copy."""
    for name, resource in names.items():
        out.print(f"{resource}  {name}")
    query = str(examples / "grace_hopper.jpg")
    estimate = ("estimate", query, "--support", names["astronaut"], "--output", str(output), "--target", target)
    out.print(f"\nThe server listens on {target} until Ctrl-C. In another terminal:\n")
    out.print(f"  {shlex.join(('capeserve', *estimate))}")
    out.print(f"  capeserve support list --target {target}\n")
