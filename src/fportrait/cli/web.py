"""`fportrait web`."""

from __future__ import annotations

from pathlib import Path

import click

from fportrait.cli._options import device_option, path_type, promoted_or_shipped
from fportrait.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def read_logins(path: Path | None, host: str) -> list[tuple[str, str]] | None:
    """Pairs of name and password from a file of `name:password` lines.

    Raises:
        UserError: the studio would be open to the network without a password, or the file has no such line.
    """
    if path is None:
        if host not in LOOPBACK:
            raise UserError(
                f"--host {host} without --logins",
                "a password for a studio that others can reach",
                "write 'name:password' into a file and pass --logins FILE, or leave --host out",
            )
        return None
    if not path.is_file():
        raise UserError(f"no file {path}", "one 'name:password' per line", "check the path")
    pairs = [line.strip().partition(":") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not pairs or not all(name and password for name, _, password in pairs):
        raise UserError(f"a line without 'name:password' in {path}", "one 'name:password' per line", "mend the file")
    return [(name, password) for name, _, password in pairs]


def on_a_desktop() -> bool:
    """Whether who started the command would see a browser opened here: a terminal, a screen, not over SSH."""
    import os
    import sys

    if not sys.stdout.isatty() or "SSH_CONNECTION" in os.environ:
        return False
    screen = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return sys.platform in ("darwin", "win32") or screen


def check_port(host: str, port: int) -> None:
    """Raises `OSError` when a server could not listen there."""
    import socket

    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that just ended is none
        trial.bind(address)


@click.command()
@click.option("--model", type=path_type, help="A model folder. Default: the promoted one, else the shipped base.")
@click.option(
    "--adapter",
    type=path_type,
    metavar="NAME|FOLDER",
    help="An adapter over it for all videos; others are chosen on the page.",
)
@click.option(
    "--results",
    type=path_type,
    default=Path("data/07_model_output/studio"),
    show_default=True,
    help="Where results are kept.",
)
@click.option("--keep", default=100, show_default=True, type=click.IntRange(1), help="Results kept; older ones go.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Other addresses need --logins.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(1, 65535))
@device_option
@click.option("--logins", type=path_type, help="A file with one 'name:password' per line.")
@click.option(
    "--name", "names", multiple=True, help="A host name it also answers to, as of a proxy; addresses always work."
)
@click.option(
    "--browser/--no-browser", default=None, help="Open the page in a browser. Default: on a desktop, from a terminal."
)
def web(
    model: Path | None,
    adapter: Path | None,
    results: Path,
    keep: int,
    host: str,
    port: int,
    logins: Path | None,
    names: tuple[str, ...],
    browser: bool | None,
) -> None:
    """Open the studio: upload a portrait and a video, choose a camera path, generate, download.

    It listens on this computer only. Needs Gradio: pip install 'fportrait[web]'.

    \b
    Examples:
      fportrait web
      fportrait web --adapter anna
      fportrait web --port 8000 --results ~/portraits
      fportrait web --host 0.0.0.0 --logins logins.txt
      fportrait web --host 0.0.0.0 --logins logins.txt --name portraits.example.org
    """
    import importlib.util
    import shutil

    pairs = read_logins(logins, host)
    if importlib.util.find_spec("gradio") is None:
        raise UserError("no Gradio", "the extra 'web'", "run pip install 'fportrait[web]'")
    from fportrait.web.results import ResultStore

    try:
        store = ResultStore(results, keep)
    except FileNotFoundError:
        raise UserError(f"{results}, where no folder can be made", "a folder of yours", "change --results") from None
    uploads = store.folder / ".uploads"
    shutil.rmtree(uploads, ignore_errors=True)  # of a server before this one
    try:
        check_port(host, port)  # before the seconds that the model takes
        from fportrait.animate.adapters import resolve
        from fportrait.ops.registry import chosen_student
        from fportrait.ops.store import home
        from fportrait.web.app import serve
        from fportrait.web.studio import Studio

        given = None if adapter is None else resolve(adapter, home())
        chosen = promoted_or_shipped(model)
        studio = Studio(chosen, store, given, home())
        streams = chosen if model is not None or given is not None else chosen_student().bundle
        serve(
            studio,
            store.folder / ".samples",
            uploads,
            host,
            port,
            pairs,
            names=names,
            browser=on_a_desktop() if browser is None else browser,
            live=streams if host in LOOPBACK else None,  # where browsers give a page the camera
        )
    except OSError:  # Gradio's own sentence tells of options that this command does not have
        raise UserError(
            f"port {port} of {host}, which cannot be used", "a free port that you may open", "pass another --port"
        ) from None
    finally:
        shutil.rmtree(uploads, ignore_errors=True)
        store.close()
