"""`capeserve playground`: the gateway, beside a server or with one of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from cape.client import CapeError, Client, ConnectionOptions
from cli.connection import secures
from cli.consoles import console
from cli.server_process import ServerStartError, server_process

DEFAULT_TARGET = "localhost:50051"
DEMONSTRATION = Path("demo/repository")
"""What `capeserve demo` exported, if it ran in this folder."""

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option(
    "--target", envvar="CAPESERVE_TARGET", help=f"Server to use.  [default: {DEFAULT_TARGET}, if one answers]"
)
@click.option("--repository", type=_FOLDER, help="Start a server of this repository instead.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the page.")
@click.option("--port", type=int, default=8080, show_default=True, help="Port of the page; 0 for a free one.")
@click.option("--open/--no-open", "open_page", default=False, help="Open the page in a browser.")
@click.option("--docs", type=_FOLDER, help="Built documentation site (mkdocs build) to serve under /docs.")
@click.option("--allow-origin", multiple=True, metavar="URL", help="Another site whose pages may call the JSON API.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path),
              help="Folder in which labelling back ends remember what they learnt.")  # fmt: skip
@secures
def playground(
    target: str | None,
    repository: Path | None,
    host: str,
    port: int,
    open_page: bool,
    docs: Path | None,
    allow_origin: tuple[str, ...],
    state: Path | None,
    options: ConnectionOptions,
) -> None:
    """Serve the playground, the JSON API and labelling back ends, until SIGTERM or Ctrl-C.

    Beside a running server (--target), or with a server of its own (--repository). Without either it uses the server
    on localhost:50051, else the model that `capeserve demo` exported into demo/.
    """
    from gateway.server import AddressInUseError, listening_socket, serve, url
    from gateway.settings import GatewaySettings

    if target and repository:
        raise click.UsageError("--target and --repository exclude each other")
    out = console()
    try:
        listener = listening_socket(host, port)
        with contextlib.closing(listener), _server(target, repository, options, out) as used:
            settings = GatewaySettings(
                used, options, documentation=docs or _built_docs(),
                allowed_origins=allow_origin, state=state,
            )  # fmt: skip
            page = url(listener)
            out.print(f"playground: {page}   JSON API: {page}api   (Ctrl-C ends it)")
            if open_page:
                webbrowser.open(page)
            serve(settings, listener)
    except (AddressInUseError, CapeError, OSError, ServerStartError) as error:
        raise click.ClickException(" ".join(str(error).split())) from None
    except KeyboardInterrupt:
        out.print("stopping")


@contextlib.contextmanager
def _server(target: str | None, repository: Path | None, options: ConnectionOptions, out: Console) -> Iterator[str]:
    """The server to use, started where there is none."""
    if target:
        yield target
        return
    if repository is None:
        if _answers(DEFAULT_TARGET, options):
            yield DEFAULT_TARGET
            return
        repository = _demonstration()
    out.print(f"starting a server of {repository}")
    with server_process(repository) as (_, started):
        yield started


def _answers(target: str, options: ConnectionOptions) -> bool:
    with Client(target, dataclasses.replace(options, attempts=1)) as client:
        try:
            client.wait_ready(timeout=1.5)
        except CapeError:
            return False
    return True


def _demonstration() -> Path:
    if (DEMONSTRATION / "cape.json").exists():
        return DEMONSTRATION
    raise click.ClickException(
        f"no server answers on {DEFAULT_TARGET}, and there is no {DEMONSTRATION}. Name a server with --target or an "
        "exported repository with --repository, or run `capeserve demo` first: it exports one."
    )


def _built_docs() -> Path | None:
    """The documentation site where `mkdocs build` leaves it."""
    site = Path(__file__).resolve().parents[1] / "build" / "site"
    return site if (site / "index.html").exists() else None
