"""Where the local Triton server lives: an environment of its own, made once.

The wheel `nvidia-pytriton` contains the server, its Python backend and its response cache, and stubs that run the
Python backend in CPython 3.8 to 3.13. They cannot be used as they lie in it:

- with numpy 2 the stub answers EMPTY tensors without any error, so numpy 1 is installed, apart from the service;
- the stub must lie beside `libtriton_python.so`, and find libpython;
- there is no ONNX Runtime backend; `export.triton.local.backend` stands in for it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

SERVER = "nvidia-pytriton==0.7.0"
"""Contains Triton 2.51. Installed without what it depends on: only its binaries are used."""

LIBRARIES = {
    "cpu": ("numpy>=1.26,<2", "onnxruntime>=1.24,<2"),
    "gpu": ("numpy>=1.26,<2", "onnxruntime-gpu[cuda,cudnn]>=1.24,<2"),
}
"""What the backend imports; for GPUs with the CUDA libraries that ONNX Runtime needs, 2 GB of them."""

BACKEND = Path(__file__).with_name("backend.py")

Device = Literal["cpu", "gpu"]

Progress = Callable[[str], None]
"""Called with what is being done."""


class TritonSetupError(RuntimeError):
    """The server cannot be set up on this machine; the message says why."""


class Installation(NamedTuple):
    """A server that can be started.

    Attributes:
        binary: tritonserver.
        backends, caches: folders that it is told to look in.
        environment: the process environment that it needs.
    """

    binary: Path
    backends: Path
    caches: Path
    environment: dict[str, str]


def default_home() -> Path:
    """Where the environment is kept unless told otherwise: the user's cache folder (XDG)."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "capeserve" / "triton"


def install(home: Path, progress: Progress = lambda step: None, device: Device = "cpu") -> Installation:
    """Makes the environment, unless it is there already.

    Args:
        home: folder to keep it in; several versions lie beside each other.
        progress: told about every step.
        device: what the models are to run on.

    Raises:
        TritonSetupError: not a machine that the wheel is for, no shared libpython, or pip failed.
    """
    _check_platform()
    home = home.expanduser().resolve()
    folder = home / _fingerprint(device)
    if not folder.exists():
        home.mkdir(parents=True, exist_ok=True)
        # Made elsewhere and moved: what was interrupted is not mistaken for a whole one. pip's scripts do not
        # survive the move, and are not used after it.
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=home))
        try:
            _create(partial, progress, device)
            partial.rename(folder)
        except OSError as error:
            if not folder.exists():  # someone else was faster, otherwise
                raise TritonSetupError(f"{home}: {error.strerror}") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return _installation(folder)


def _check_platform() -> None:
    version = sys.version_info[:2]
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or not (3, 8) <= version <= (3, 13):
        raise TritonSetupError(
            f"a local Triton server needs Linux on x86-64 and CPython 3.8 to 3.13, not {sys.platform} on "
            f"{platform.machine()} with {version[0]}.{version[1]}; use NVIDIA's container"
        )
    if not list(_libpython_folder().glob(f"libpython{version[0]}.{version[1]}.so*")):
        raise TritonSetupError(
            f"{sys.executable} has no shared libpython in {_libpython_folder()}, which Triton's Python backend loads; "
            "use a Python built with --enable-shared, or NVIDIA's container"
        )


def _libpython_folder() -> Path:
    return Path(sysconfig.get_config_var("LIBDIR") or Path(sys.base_prefix) / "lib")


def _fingerprint(device: Device) -> str:
    """Changes with anything that goes into the environment."""
    digest = hashlib.sha256(BACKEND.read_bytes())
    digest.update(repr((SERVER, LIBRARIES[device], sys.version, sys.base_prefix)).encode())
    return digest.hexdigest()[:12]


def _create(folder: Path, progress: Progress, device: Device) -> None:
    progress("creating an environment")
    _run(sys.executable, "-m", "venv", str(folder / "env"))
    python = str(folder / "env" / "bin" / "python")
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-script-location")
    progress(f"installing {SERVER} (60 MB)")
    _run(*pip, "--no-deps", SERVER)
    progress(f"installing {' '.join(LIBRARIES[device])}")
    _run(*pip, *LIBRARIES[device])
    progress("laying out the backends")
    server = _packages(folder) / "pytriton" / "tritonserver"
    backends = folder / "backends"
    shutil.copytree(server / "backends", backends)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    stub = "triton_python_backend_stub"
    shutil.copy2(server / "python_backend_stubs" / version / stub, backends / "python" / stub)
    (backends / "onnxruntime").mkdir()
    shutil.copyfile(BACKEND, backends / "onnxruntime" / "model.py")


def _installation(folder: Path) -> Installation:
    packages = _packages(folder)
    server = packages / "pytriton" / "tritonserver"
    libraries = (packages / "nvidia_pytriton.libs", _libpython_folder())
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    inherited = environment.get("LD_LIBRARY_PATH")
    environment["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, libraries), *([inherited] if inherited else [])])
    # The stub embeds an isolated interpreter: it heeds no PYTHONPATH, but looks for itself, and with that for its
    # packages, where `python3` is on PATH.
    environment["PATH"] = os.pathsep.join([str(folder / "env" / "bin"), environment.get("PATH", os.defpath)])
    return Installation(server / "bin" / "tritonserver", folder / "backends", server / "caches", environment)


def _packages(folder: Path) -> Path:
    return folder / "env" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def _run(*command: str) -> None:
    """Runs a command; its own last words are the error."""
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        words = (finished.stderr or finished.stdout).strip().splitlines()
        raise TritonSetupError(f"{' '.join(command[1:4])} failed: {words[-1] if words else 'without a word'}")
