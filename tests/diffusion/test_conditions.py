"""The conditions of a clip: one declaration, from which checks, dropout, guidance, windows and channels follow."""

import numpy as np
import pytest
import torch

from fportrait.camera.rays import fold_rays, folded_rays, plucker_rays
from fportrait.diffusion import conditions as module
from fportrait.diffusion.cameras import Cameras
from fportrait.diffusion.conditions import BY_NAME, CONDITIONS, Condition, Conditions, Reads, cut, padded
from fportrait.diffusion.factors import FACTORS
from fportrait.diffusion.transformer import channel_groups
from fportrait.diffusion.windows import plan_windows
from fportrait.errors import UserError

EVERYTHING = Reads(reference_rays="identity", reference_normals="portrait", warped_reference=True)


def random_conditions(batch: int = 2, frames: int = 3, reads: Reads = EVERYTHING) -> Conditions:
    generator = torch.Generator().manual_seed(0)
    zeros = Conditions.zeros(reads, batch, frames, 4, 4)
    return zeros._with(lambda _, value: torch.randn(value.shape, generator=generator))


def cameras(frames: int) -> Cameras:
    world_to_camera = np.tile(np.eye(4), (frames, 1, 1))
    world_to_camera[:, 0, 3] = np.arange(frames) / 10
    lens = np.array([[20.0, 0, 16], [0, 20, 16], [0, 0, 1]])
    return Cameras(world_to_camera, lens, world_to_camera[0], 2 * lens)


def test_every_field_is_declared_and_every_factor_has_a_name():
    assert [one.name for one in CONDITIONS] == list(Conditions.__dataclass_fields__)
    assert tuple(dict.fromkeys(one.factor for one in CONDITIONS if one.factor)) == FACTORS


def test_factors_drop_independently_by_value_at_the_asked_rate():
    given = Conditions(torch.ones(20_000, 1, 1, 1, 1), torch.ones(20_000, 1, 2, 1, 1), None, torch.ones(20_000, 5, 3))
    dropped = given.dropped(0.1, torch.Generator().manual_seed(0))
    codes, rays = dropped.codes.flatten(1), dropped.rays.flatten(1)
    assert ((codes == codes[:, :1]).all(1)).all(), "a sample is dropped as a whole"
    gone_codes, gone_rays = codes[:, 0] == 0, rays[:, 0] == 0
    assert gone_codes.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (gone_codes & gone_rays).float().mean().item() == pytest.approx(0.01, abs=0.004)
    assert given.codes.min() == 1, "the input is untouched"
    pairs = given.dropped(0.1, torch.Generator().manual_seed(0), copies=2)
    assert torch.equal(*pairs.codes.chunk(2)) and torch.equal(*pairs.rays.chunk(2))


def test_each_factor_may_have_its_own_rate_and_what_belongs_to_all_stays():
    given = random_conditions()
    dropped = given.dropped({"expression": 1.0, "view": 1.0})
    assert not dropped.codes.any() and not dropped.rays.any()
    assert all(torch.equal(getattr(dropped, n), getattr(given, n)) for n in ("normals", "reference", "reference_rays"))
    with pytest.raises(UserError, match="'codes'"):
        given.dropped({"codes": 0.5})


def test_guidance_leaves_out_one_factor_alone():
    given = random_conditions()
    without = given.without("pose")
    assert not without.normals.any() and torch.equal(without.codes, given.codes)
    assert given.carry("pose") and not random_conditions(reads=Reads(use_normals=False)).carry("pose")


def test_batches_split_and_join_again():
    given = random_conditions(4)
    again = Conditions.cat([given[:1], given[1:3], given[torch.tensor([3])]])
    assert len(again) == 4
    assert all(torch.equal(value, again.inputs()[name]) for name, value in given.inputs().items())
    with pytest.raises(TypeError):
        list(given)


@pytest.mark.parametrize("name", [one.name for one in CONDITIONS])
def test_a_condition_that_does_not_fit_is_named(name):
    given = random_conditions()
    given.check(EVERYTHING, (2, 16, 3, 4, 4))
    wrong = Conditions(**{**given.inputs(), name: getattr(given, name)[:1]})
    with pytest.raises(UserError, match=name):
        wrong.check(EVERYTHING, (2, 16, 3, 4, 4))


def test_a_clip_holds_the_rays_of_its_cameras_and_where_asked_of_the_portrait_s():
    path = cameras(5)
    parts = torch.randn(16, 1, 4, 4), path, torch.randn(16, 2, 4, 4), torch.randn(5, 128)
    normals, painted = torch.randn(16, 1, 4, 4), torch.randn(16, 2, 4, 4)
    plain, own = (Conditions.of_clip(reads, *parts, normals, painted) for reads in (Reads(), EVERYTHING))
    assert plain.reference_normals is None and torch.equal(own.reference_normals[0], normals)
    assert plain.warped is None and torch.equal(own.warped[0], painted)
    for name, given in (("no reference normals", (None, painted)), ("no warped", (normals, None))):
        with pytest.raises(UserError, match=name):
            Conditions.of_clip(EVERYTHING, *parts, *given)
    expected = fold_rays(plucker_rays(path.world_to_camera, path.intrinsics, path.world_to_camera[0], 32, 32))
    assert plain.reference_rays is None and torch.equal(plain.rays[0], torch.from_numpy(expected.copy()))
    still = plucker_rays(path.world_to_camera[:1], 2 * path.intrinsics, path.world_to_camera[0], 32, 32)[0]
    assert torch.equal(own.reference_rays[0, :6, 0], torch.from_numpy(still))


def test_a_zoom_gives_every_frame_its_own_lens():
    path = cameras(5)
    lenses = np.stack([path.intrinsics * [[f], [f], [1]] for f in (1, 1, 2, 1, 3)])
    zoomed = folded_rays(path.world_to_camera, lenses, path.world_to_camera[0], 32, 32, 6)
    for latent, frame in ((0, 0), (1, 4)):
        own = plucker_rays(path.world_to_camera[[frame]], lenses[frame], path.world_to_camera[0], 32, 32)[0]
        assert np.array_equal(zoomed[:, latent], own)


@pytest.mark.parametrize("channels", [24, 6])
def test_a_window_s_rays_are_those_of_its_own_frames(channels):
    path = cameras(17)
    window = plan_windows(17, 13, 4)[1]
    whole, own = path.rays(channels, 32, 32), path.take(window.frames).rays(channels, 32, 32)
    assert torch.equal(cut(BY_NAME["rays"], whole, window), own)
    with pytest.raises(UserError, match="as pixels"):
        random_conditions(frames=5).window(window)


@pytest.mark.parametrize("frames, expected", [(1, [0]), (2, [0, 1, 1, 1, 1]), (5, [0, 1, 2, 3, 4])])
def test_a_video_is_padded_with_its_last_frame(frames, expected):
    assert padded(frames).tolist() == expected


def test_a_condition_that_is_declared_finds_its_channels(monkeypatch):
    more = Condition("portrait_normals", "identity", "one", lambda reads: reads.latent_channels, "normals")
    light = Condition("light", "light", "latent", lambda reads: 9, "light")
    before = channel_groups(Reads())
    monkeypatch.setattr(module, "CONDITIONS", (*CONDITIONS, more, light))
    monkeypatch.setattr("fportrait.diffusion.transformer.CONDITIONS", (*CONDITIONS, more, light))
    assert channel_groups(Reads()) == {**before, "light": slice(72, 81)}
    assert light.shape(Reads(), 2, 3, 4, 4) == (2, 9, 3, 4, 4)
