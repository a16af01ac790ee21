"""One picture with another expression, head pose or view."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from fportrait.animate import Animator
from fportrait.animate.edit import Edit, edit_picture, prepare_edit
from fportrait.animate.pictures import colourless
from fportrait.animate.stream import PortraitStream
from fportrait.bundle import SHIPPED_BASE
from fportrait.capture.image_io import read_image, write_image
from fportrait.cli import main
from fportrait.errors import UserError
from fportrait.provenance import read_provenance


@pytest.fixture(scope="module")
def animator():
    return Animator(SHIPPED_BASE, remember=2)


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    from fportrait.body.model import load_body
    from fportrait.capture.people import sample_person
    from fportrait.capture.video_io import write_image
    from fportrait.capture.world import sample_training_clip

    body = load_body()
    clip = sample_training_clip(np.random.default_rng(12), body, "phone", 1, 160, person=sample_person(12, body))
    return write_image(tmp_path_factory.mktemp("edit") / "me.png", clip["video"][0])


@pytest.fixture(scope="module")
def plain(animator, portrait):
    return edit_picture(animator, Edit(portrait, scale=1))[0].astype(float)


@pytest.mark.parametrize(
    "change", [{"adjust": {"lips": 1.0}}, {"adjust": {"eyes": -1.0}}, {"head": (20.0, 0.0, 0.0)}, {"camera": "25,0"}]
)
def test_a_slider_changes_the_picture_where_it_should(animator, portrait, plain, change):
    image = edit_picture(animator, Edit(portrait, scale=1, **change))[0].astype(float)
    moved = np.abs(image - plain).mean(-1)
    size = len(moved)
    if "lips" in change.get("adjust", {}):
        assert moved[size * 3 // 5 :].mean() > 1.5 * moved[: size // 3].mean()
    elif "eyes" in change.get("adjust", {}):
        assert moved[size // 4 : size * 11 // 20].mean() > 1.5 * moved[size * 4 // 5 :].mean()
    else:
        quarter = size // 4
        assert moved[quarter:-quarter, quarter:-quarter].mean() > 9
        assert moved[:quarter, :quarter].mean() < 2  # the wall behind a turned head stands still


def test_the_heads_turn_is_added_to_its_own_about_its_middle(animator, portrait):
    still, turned = (prepare_edit(animator, Edit(portrait, head=head)) for head in ((0, 0, 0), (30, 0, 0)))
    before, after = still.drive.track.rotations[0], turned.drive.track.rotations[0]
    assert np.degrees(np.arccos((np.trace(after @ before.T) - 1) / 2)) == pytest.approx(30, abs=1e-6)
    np.testing.assert_allclose(turned.person.track.rotations, still.person.track.rotations)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *(
            ({"head": (60, 0, 0)}, "yaw of 60"),
            ({"head": (float("nan"), 0, 0)}, "yaw of nan"),
            ({"camera": "120,0"}, "yaw 120"),
        ),
        ({"guidance": {"expression": float("nan")}}, "guidance expression=nan"),
        *(({"adjust": {"nose": 1.0}}, "nose"), ({"adjust": {"lips": 5.0}}, "lips=5")),
    ],
)
def test_what_the_model_was_never_shown_is_refused(animator, portrait, change, said):
    with pytest.raises(UserError, match=said):
        prepare_edit(animator, Edit(portrait, **change))


def test_head_and_camera_that_turn_too_far_together_are_told(animator, portrait):
    """Each of them within its own bounds; the other way round they cancel out."""
    wanted = (Edit(portrait, head=(45, 0, 0), camera=camera) for camera in ("-40,0", "40,0"))
    notes = [prepare_edit(animator, one).notes for one in wanted]
    apart, along = ([note for note in some if "turned" in note] for some in notes)
    assert len(apart) == 1 and "85° from where me.png shows it" in apart[0] and not along


def test_a_black_and_white_portrait_stays_so_also_inside_its_mouth(animator, portrait, tmp_path):
    grey = np.repeat(read_image(portrait).mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    path = write_image(tmp_path / "grey.png", grey)
    image = edit_picture(animator, Edit(path, {"lips": -1.0}, scale=1))[0]
    assert (image == image[..., :1]).all() and image.std() > 20
    coloured = edit_picture(animator, Edit(portrait, {"lips": -1.0}, scale=1))[0]
    assert colourless(grey) and not colourless(coloured)
    streams = PortraitStream(animator, path), PortraitStream(animator, portrait)
    assert [stream.grey for stream in streams] == [True, False]
    still = streams[0].rest(streams[0].person.reference_camera)
    shown = streams[0].make([still] * streams[0].frames)
    assert (shown == shown[..., :1]).all()


def test_the_command_writes_a_picture_that_says_what_it_is(portrait, tmp_path):
    output = tmp_path / "new" / "out.png"
    asked = ["edit", "--portrait", str(portrait), "--model", str(SHIPPED_BASE), "-o", str(output)]
    done = CliRunner().invoke(main, [*asked, "--adjust", "smile=1", "--head", "10,0,0", "--steps", "1", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["picture"] == str(output) and read_image(output).shape == (512, 512, 3)
    settings = read_provenance(output)["settings"]
    assert settings["adjust"] == {"smile": 1.0} and settings["head"] == [10.0, 0.0, 0.0]
    for change, said in (
        (["-o", str(tmp_path / "out.jpg")], "ends with .png"),
        (["-o", str(portrait)], "overwrite the portrait"),
        (["--head", "10"], "3 numbers"),
        (["--adjust", "smile"], "SLIDER=STRENGTH"),
        (["--adapter", "anna"], "fportrait adapt CLIPS --name NAME"),  # a name of the project, as of animate
    ):
        refused = CliRunner().invoke(main, [*asked, *change])
        assert refused.exit_code == 2 and said in refused.output + refused.stderr, refused.output
