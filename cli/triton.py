"""`capeserve triton`: a local Triton server without a container."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cli.consoles import console


@click.command()
@click.option("--repository", required=True, type=click.Path(path_type=Path), help="Exported repository.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--http-port", default=8000, show_default=True, help="KServe v2 over HTTP; 0 takes a free port.")
@click.option("--grpc-port", default=8001, show_default=True, help="KServe v2 over gRPC, for `serve --triton-url`.")
@click.option("--metrics-port", default=8002, show_default=True, help="Prometheus.")
@click.option("--cache-bytes", default=64 << 20, show_default=True, help="Response cache, for text embeddings.")
@click.option("--gpu", is_flag=True, help="Run the models with CUDA: installs ONNX Runtime for GPUs, 2 GB.")
@click.option(
    "--home", type=click.Path(path_type=Path), help="Installation folder of the server.  [default: the user's cache]"
)
def triton(
    repository: Path,
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    cache_bytes: int,
    gpu: bool,
    home: Path | None,
) -> None:
    """Serve a repository with a local Triton server, for development and tests, until SIGTERM or Ctrl-C.

    The server is installed from the PyPI wheel nvidia-pytriton (Linux, x86-64) into its own environment. It runs on
    CPUs, or with --gpu on all GPUs. In production, use NVIDIA's container.
    """
    from export.triton.local.environment import TritonSetupError, default_home, install
    from export.triton.local.server import Ports, TritonStartError, check_repository, supervise, triton_server

    errors = console(stderr=True)
    try:
        check_repository(repository)
        installation = install(
            home or default_home(), lambda step: errors.print(f"Triton: {step}"), "gpu" if gpu else "cpu"
        )
        ports = Ports(http_port, grpc_port, metrics_port)
        with triton_server(
            installation, repository, log=sys.stderr.buffer, host=host, ports=ports, cache_bytes=cache_bytes
        ) as server:
            ready = f"Triton is ready: gRPC {server.grpc}, HTTP {server.http}, metrics {server.metrics}"
            code = supervise(server, announce=lambda: errors.print(ready))
    except (TritonSetupError, TritonStartError) as error:
        raise click.ClickException(str(error)) from None
    sys.exit(code)
