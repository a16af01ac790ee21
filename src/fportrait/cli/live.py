"""`fportrait live`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from fportrait.cli._options import SEED, device_option, json_option, path_type, print_json, student
from fportrait.errors import UserError

TOLD_EVERY = 1.0  # seconds between lines of state


def parse_view(text: str) -> tuple[float, float]:
    """`YAW,ELEVATION` in degrees.

    Raises:
        UserError: not two numbers.
    """
    try:
        yaw, elevation = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--view {text}", "YAW,ELEVATION in degrees", "write e.g. --view 20,5") from None
    return yaw, elevation


@click.command()
@click.option("--portrait", required=True, type=path_type, help="A picture with one face: identity.")
@click.option("--camera", type=click.IntRange(0, 63), help="The number of a camera. Default: 0, without --input.")
@click.option("--input", "file", type=path_type, help="A video, played as if it were a camera.")
@click.option("--loop", is_flag=True, help="Play the video again and again.")
@click.option("-o", "--output", type=path_type, help="A video to write (.mp4), or a named pipe for other programs.")
@click.option("--model", type=path_type, help="A model folder. Default: the promoted or shipped student.")
@click.option("--size", type=click.IntRange(16), help="Side of the picture, a square. Default: the model's own.")
@click.option("--view", default="0,0", show_default=True, metavar="YAW,ELEVATION", help="Where the camera stands.")
@click.option(
    "--expression", default=1.0, show_default=True, type=click.FloatRange(0, 3), help="Its strength; 0: rest."
)
@click.option("--pose", default=1.0, show_default=True, type=click.FloatRange(0, 2), help="The strength of head turns.")
@click.option("--seconds", type=click.FloatRange(0.1), help="End after so long. Default: with the video, or Ctrl-C.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of the noise.")
@click.option("--scale", default=4, show_default=True, type=click.IntRange(1, 16), help="Enlarge what is written.")
@click.option("--fov", default=40.0, show_default=True, type=click.FloatRange(5, 150), help="Of the camera, degrees.")
@click.option("--profile", is_flag=True, help="Print where processor time went, stage by stage.")
@click.option(
    "--force", is_flag=True, help="Replace files that fportrait did not write; go on with what is unlike a face."
)
@device_option
@json_option
def live(
    portrait: Path,
    camera: int | None,
    file: Path | None,
    loop: bool,
    output: Path | None,
    model: Path | None,
    size: int | None,
    view: str,
    expression: float,
    pose: float,
    seconds: float | None,
    seed: int,
    scale: int,
    fov: float,
    profile: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Animate a portrait while its driver moves: from a camera, or from a video played as one.

    Frames are dropped rather than queued when the machine is slow. A lost face is held, goes to rest, and comes back by
    itself. What is written says that it is synthetic.

    \b
    Examples:
      fportrait live --portrait me.jpg -o live.mp4
      fportrait live --portrait me.jpg --input talk.mp4 -o live.mp4 --profile
      mkfifo pipe; fportrait live --portrait me.jpg -o pipe &  ffplay pipe
    """
    if file is not None and camera is not None:
        raise UserError("--camera and --input", "one of them", "leave one out")
    if output is None and not profile:
        raise UserError("no --output", "a video or a named pipe to write", "add -o live.mp4, or --profile to measure")
    yaw, elevation = parse_view(view)
    report = run_live(
        portrait,
        file,
        camera or 0,
        loop,
        output,
        student(model),
        size,
        {"yaw": yaw, "elevation": elevation, "expression": expression, "pose": pose},
        seconds,
        seed,
        scale,
        fov,
        force,
    )
    if as_json:
        print_json(report)
        return
    if report["output"]:
        click.echo(f"video: {report['output']}")
    click.echo(
        f"{report['shown']} frames shown"
        + (f" at {report['rate']:.1f} a second" if report["rate"] else "")
        + f", {report['dropped']} dropped; "
        f"latency {1000 * report['latency']:.0f} ms, 95%: {1000 * report['latency_95']:.0f} ms"
    )
    if profile:
        from fportrait.animate.profile import table

        click.echo(table(report["profile"], report["shown"]))
    if report["note"]:
        click.echo(f"note: {report['note']}", err=True)


def run_live(
    portrait: Path,
    file: Path | None,
    camera: int,
    loop: bool,
    output: Path | None,
    model: Path,
    size: int | None,
    steering: dict[str, float],
    seconds: float | None,
    seed: int,
    scale: int,
    fov: float,
    force: bool,
) -> dict[str, Any]:
    """Run a stream to its end, telling its state on standard error; returns its figures."""
    import torch

    from fportrait.animate.animator import Animator
    from fportrait.animate.driving import Steering
    from fportrait.animate.live import Live, one_blas_thread, refuse_not_running
    from fportrait.animate.profile import Profile
    from fportrait.animate.recording import Recording, is_pipe
    from fportrait.animate.run import check_output
    from fportrait.animate.sources import CameraSource, FileSource
    from fportrait.animate.stream import PortraitStream
    from fportrait.capture.withdrawn import refuse_withdrawn
    from fportrait.provenance import provenance_tags

    if output is not None and not is_pipe(output):
        check_output(output, [portrait, file], force=force)
    refuse_withdrawn([portrait, file])
    source: Any = FileSource(file, loop=loop) if file is not None else CameraSource(camera)
    fps = source.fps
    profile = Profile()
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # the stages run beside each other
    with profile.measured("load"):
        one_blas_thread()
        animator = Animator(model, size=size)
        stream = PortraitStream(animator, portrait, seed=seed, force=force)
        stream.warm_up()
    for note in stream.notes:
        click.echo(f"note: {note}", err=True)
    inputs = {"portrait": portrait, **({} if file is None else {"driving": file})}
    recording = None
    if output is not None:
        recording = Recording(output, fps, provenance_tags(model, inputs, stream.settings_tags()), scale)

    def sink(frame: Any, at: float) -> None:
        if recording is not None:
            recording(frame, at)

    running = Live(stream, source, sink, Steering(**steering), seconds=seconds, fov=fov).start()
    try:
        _watch(running)
        refuse_not_running(running)
    except KeyboardInterrupt:
        running.stop()
    finally:
        written = recording.close() if recording is not None else None
    status, meter = running.status, running.meter
    profile.seconds.update(meter.seconds)
    return {
        "output": written,
        "shown": meter.shown,
        "read": meter.read,
        "dropped": status.dropped,
        "without_face": meter.lost,
        "rate": meter.mean_rate,
        "latency": meter.latency(0.5),
        "latency_95": meter.latency(0.95),
        "profile": dict(profile.seconds),
        "note": running.slowness(),
    }


def _watch(running: Any) -> None:
    """One line a second where a person looks; a line per change of state elsewhere."""
    terminal, told = sys.stderr.isatty(), ""
    while not running.wait(TOLD_EVERY):
        status = running.status
        line = f"{status.rate:5.1f} frames/s  {1000 * status.latency:4.0f} ms  {status.dropped} dropped  {status.state}"
        if terminal:
            click.echo(f"\r{line:<76}", nl=False, err=True)
        elif status.state != told:
            click.echo(f"{time.strftime('%H:%M:%S')} {status.state}", err=True)
            told = status.state
    if terminal:
        click.echo("", err=True)
