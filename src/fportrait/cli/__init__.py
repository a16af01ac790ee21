"""The `fportrait` command.

Each command lives in a module of its own and is loaded only when it is called: `fportrait --help` reads the table below
and imports nothing else.
"""

from __future__ import annotations

import difflib
import errno
import importlib.util
import os
import sys
from importlib import import_module
from typing import Any

import click

from fportrait import __version__
from fportrait.errors import UserError

COMMANDS: dict[str, tuple[str, str]] = {
    # name: (module:command, its line in `fportrait --help`), in the order they are listed. A command `import` is named
    # `import_captures` in its module.
    "doctor": ("fportrait.cli.doctor:doctor", "Check the environment; name the fix for what is missing."),
    "animate": ("fportrait.cli.animate:animate", "Animate a portrait with a driving video, along a camera path."),
    "edit": ("fportrait.cli.animate:edit", "Give a portrait another expression, head pose or view, as a picture."),
    "live": ("fportrait.cli.live:live", "Animate a portrait from a camera, while its driver moves."),
    "provenance": ("fportrait.cli.animate:provenance", "Show what a generated video says about itself."),
    "web": ("fportrait.cli.web:web", "Open the studio in a browser."),
    "status": ("fportrait.cli.status:status", "Stages, champion, quarantine and last study on one screen."),
    "import": ("fportrait.cli.captures:import_captures", "Bring phone clips or a studio data set into the project."),
    "check": ("fportrait.cli.check:check", "What of your clips is usable, and what to film next."),
    "adapt": ("fportrait.cli.adapt:adapt", "Adapt the model to a few clips of a person; list and delete adapters."),
    "forget": ("fportrait.cli.forget:forget", "Take a person whose consent is withdrawn out of the project."),
    "track": ("fportrait.cli.track:track", "Track the face of one picture or video; write what was found."),
    "avatar": ("fportrait.cli.avatar:avatar", "Look at, render and export fitted Gaussian avatars."),
    "plan": ("fportrait.cli.train:plan", "Memory and time that a training stage will need."),
    "evaluate": ("fportrait.cli.evaluation:evaluate", "Score a model with the paper's protocols."),
    "promote": ("fportrait.cli.models:promote", "Let the gate decide whether a model becomes champion."),
    "rollback": ("fportrait.cli.models:rollback", "Give the alias champion back to the previous model."),
    "lineage": ("fportrait.cli.models:lineage", "Everything that a model was made from."),
    "registry": (
        "fportrait.cli.registry:registry",
        "Bring registry and runs along to another machine; set the anchor.",
    ),
    "weights": ("fportrait.cli.weights:weights", "Pretrained weights that you may add: list, check, import."),
    "train-encoder": ("fportrait.cli.encoder:train_encoder", "Train the expression encoder on your own captures."),
    "bench": ("fportrait.cli.bench:bench", "Run benchmarks and show their figures."),
}

SAMPLING = ("animate", "edit", "live")  # they only sample: what else diffusers is used for need not be imported

EXIT_ERROR = 1  # a fault of fportrait's: please report it
EXIT_USER = 2  # a mistake that the message says how to mend
EXIT_PARTIAL = 3  # finished, but some inputs were quarantined, or something of who is forgotten is left
EXIT_INTERRUPTED = 130

PLACES = {  # what the system may say about a path that a user chose, and the fix
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose another place, or change its permissions"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG), "choose another name"),
    errno.ELOOP: "name the file that the link should lead to",
}


class LazyGroup(click.Group):
    """Loads a command on its first use, and prints a `UserError` as one message, without a traceback.

    A command whose module is not installed is not listed.
    """

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}
        self.alone = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As a script is started: the process is this command's alone, as it is not in tests and notebooks."""
        self.alone = True
        return super().__call__(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        present = [name for name, (target, _) in self.lazy.items() if importlib.util.find_spec(target.split(":")[0])]
        return [*present, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.lazy:
            return super().get_command(ctx, name)
        module, attribute = self.lazy[name][0].split(":")
        if importlib.util.find_spec(module) is None:
            return None
        command = getattr(import_module(module), attribute)
        command.name = name
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if near and "Did you mean" not in error.message:
                raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self.lazy[name][1]) for name in self.list_commands(ctx) if name in self.lazy]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"fportrait: {error}", err=True)
            sys.exit(EXIT_USER)
        except RuntimeError as error:  # what CUDA says of a card that is too small, or gone
            from fportrait.devices import device_error

            if str(error).startswith("Symlink loop"):  # as `Path.resolve` says it
                circle = UserError(f"a {str(error).lower()}", "a file or folder", PLACES[errno.ELOOP])
                click.echo(f"fportrait: {circle}", err=True)
                sys.exit(EXIT_USER)
            told = device_error(error) if "torch" in sys.modules else None
            if told is None:
                raise
            click.echo(f"fportrait: {told}", err=True)
            sys.exit(EXIT_USER)
        except (KeyboardInterrupt, click.Abort):
            click.echo("fportrait: stopped", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:  # `fportrait status | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_ERROR)
        except OSError as error:
            fix = PLACES.get(error.errno or 0)
            if fix is None:
                raise
            place = f" at {error.filename}" if error.filename else ""
            found = f"'{error.strerror}'{place}"
            click.echo(f"fportrait: {UserError(found, 'a place that can be read and written', fix)}", err=True)
            sys.exit(EXIT_USER)


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fportrait")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Controllable portrait animation: one portrait, one driving video and one camera path in, a video out.

    \b
    Examples:
      fportrait doctor
      fportrait animate --portrait me.jpg --driving talk.mp4 --camera spin -o out.mp4
      fportrait web

    \b
    Pipelines are run with Kedro and DVC:
      kedro run                            the whole chain
      kedro run --pipelines=train_stage4   one stage
      dvc repro                            only what changed

    \b
    Exit codes: 0 done; 1 a fault of fportrait; 2 a mistake that the message says how to mend;
    3 done, but some inputs were quarantined (`forget`: something is left); 130 stopped.
    """
    if getattr(ctx.command, "alone", False) and ctx.invoked_subcommand in SAMPLING:
        from fportrait.diffusion.lean import ask

        # What tracking and painting compute is small: threads of OpenBLAS would spin while they wait for each other, a
        # third of the CPU seconds of a short video. Read when NumPy and SciPy are loaded, so it is set before.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        ask()


def __getattr__(name: str) -> click.Group:
    """Kedro asks this module for its own group `cli`; made late, so that `fportrait --help` does not pay for Kedro."""
    if name == "cli":
        from fportrait.ops.kedro_cli import cli

        return cli
    raise AttributeError(name)
