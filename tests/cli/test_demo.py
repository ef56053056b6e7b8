from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cape.checkpoints import load_checkpoint
from cape.manifest import MANIFEST_NAME, read_manifest
from cli.demo import PAIRS
from cli.main import main
from cli.server_process import ServerStartError, server_process

START = "from cli.main import main; main()"


@pytest.fixture
def output(tiny_repository: Path, tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The demonstration's folder, with the tiny model exported already."""
    folder = tmp_path / "demo"
    shutil.copytree(tiny_repository, folder / "repository")
    say_exported_from(tiny_checkpoint, folder / "repository")
    return folder


def say_exported_from(folder: Path, repository: Path) -> None:
    """Makes a repository's manifest name a checkpoint as its source."""
    manifest, checkpoint = read_manifest(repository), load_checkpoint(folder)
    trained = checkpoint.system.configuration.trained
    source = manifest.source.model_copy(update={"sha256": checkpoint.sha256, "trained": trained})
    changed = manifest.model_copy(update={"source": source})
    (repository / MANIFEST_NAME).write_text(changed.model_dump_json(), encoding="utf-8")


def test_the_demonstration_leaves_a_picture_of_every_pair_and_a_latency_table(output, tiny_checkpoint):
    result = CliRunner().invoke(main, ["demo", "--output", str(output), "--checkpoint", str(tiny_checkpoint)])
    assert result.exit_code == 0, result.output
    assert "was exported from it before" in result.stdout
    for support, query in PAIRS:
        picture = np.asarray(Image.open(output / f"{support}_to_{query}.png"))
        # The tiny model is untrained, which the banner says.
        assert (picture[:10] == (255, 193, 7)).all()
    table = (output / "latency.md").read_text()
    assert "61.35" in table
    assert "16.30" in table
    assert "Untrained model" in table
    for stage in ("decode", "crop", "backbone", "decoder", "waiting", "total on the server", "round trip"):
        row = next(line for line in table.splitlines() if stage in line and line.startswith("|"))
        warm, cold = (float(cell) for cell in row.split("|")[2:4])
        assert warm >= 0
        assert cold >= 0
    support = next(line for line in table.splitlines() if line.startswith("| support"))
    warm, cold = (float(cell) for cell in support.split("|")[2:4])
    assert warm < cold


def test_a_trained_checkpoint_is_scored_through_the_running_service_and_its_failures_are_shown(
    output, tiny_checkpoint, tmp_path
):
    checkpoint = Path(shutil.copytree(tiny_checkpoint, tmp_path / "trained"))
    configuration = (checkpoint / "config.json").read_text()
    (checkpoint / "config.json").write_text(configuration.replace('"trained": false', '"trained": true'))
    say_exported_from(checkpoint, output / "repository")
    result = CliRunner().invoke(main, ["demo", "--output", str(output), "--checkpoint", str(checkpoint)])
    assert result.exit_code == 0, result.output
    assert re.search(r"unseen synthetic categories, \d+ pairs: PCK@0.2 \d+\.\d %", result.stdout)
    assert (output / "failure_01.png").stat().st_size > 10_000
    assert "failure_02.png" in (output / "accuracy.md").read_text()
    assert "ntrained" not in result.stdout


def test_a_server_that_is_left_running_answers_the_commands_it_prints_until_it_is_told_to_stop(
    output, tiny_checkpoint, tmp_path
):
    command = [sys.executable, "-c", START, "demo", "--serve", "--port", "0"]
    command += ["--output", str(output), "--checkpoint", str(tiny_checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line.strip())
            if "support list" in line:
                break
        commands = [line for line in printed if line.startswith("capeserve ")]
        assert len(commands) == 2
        for line in commands:
            result = CliRunner().invoke(main, shlex.split(line)[1:])
            assert result.exit_code == 0, result.output
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    target = re.search(r"--target (\S+)", commands[0])
    assert target is not None
    gone = CliRunner().invoke(main, ["support", "list", "--target", target[1], "--timeout", "1"])
    assert gone.exit_code == 1
    assert (output / "grace_hopper_pose.png").exists()


def test_a_repository_that_cannot_be_served_is_said_with_the_servers_own_words(tmp_path):
    server = server_process(tmp_path / "nothing", log=tmp_path / "log")
    with pytest.raises(ServerStartError, match="no such folder"), server:
        pass


def test_a_port_that_is_taken_is_said(tiny_repository, target):
    port = int(target.rpartition(":")[2])
    server = server_process(tiny_repository, port=port)
    with pytest.raises(ServerStartError, match=f"port {port} is in use"), server:
        pass


def test_photographs_that_are_not_there_are_named(tmp_path):
    result = CliRunner().invoke(main, ["demo", "--output", str(tmp_path / "demo"), "--examples", str(tmp_path)])
    assert result.exit_code == 1
    assert f"{tmp_path}/astronaut.yaml: No such file" in result.stderr
