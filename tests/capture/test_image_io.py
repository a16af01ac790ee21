"""Pictures are read as a viewer shows them: upright, in sRGB, at their own depth, over white."""

import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from fportrait.capture import colour
from fportrait.capture.image_io import exposure_note, read_image, read_picture, to_eight_bits
from fportrait.errors import UserError


def ramp(height=20, width=32):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 7, y * 12, np.full_like(x, 90)], -1).astype(np.uint8)


def icc_profile(primaries: int, gamma: float) -> bytes:
    """A matrix profile (ICC version 2) of primaries by their number in H.273."""
    xyz = colour._to_xyz(primaries, colour.D65)
    # Bradford: the profile's connection space has D50 as white.
    bradford = np.array(
        [[1.0479298, 0.0229468, -0.0501922], [0.0296278, 0.9904344, -0.0170738], [-0.0092430, 0.0150552, 0.7518743]]
    )

    def number(value):
        return struct.pack(">i", round(value * 65536))

    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + b"\0" * 78,
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
    }
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), (bradford @ xyz).T, strict=True):
        tags[name] = b"XYZ \0\0\0\0" + b"".join(map(number, column))
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + b"".join(map(number, (0.9642, 1.0, 0.8249)))
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        tags[name] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    table, body, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", place + len(body), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + b"".join(map(number, (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "deep.png", "a.webp"])
def test_all_eight_orientations_are_turned_and_mirrored_upright(tmp_path, orientation, name):
    image = ramp()
    stored = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.swapaxes(0, 1),
        6: np.rot90(image),
        7: image[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(image, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / name
    if name == "deep.png":
        _, data = cv2.imencode(".png", np.ascontiguousarray(stored[..., ::-1]).astype(np.uint16) * 257)
        chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        import zlib

        chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        path.write_bytes(data.tobytes()[:33] + chunk + data.tobytes()[33:])
    else:
        lossless = {"quality": 100, "subsampling": 0} if name == "a.jpg" else {"lossless": True}
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **(lossless if name != "a.png" else {}))
    assert np.abs(read_image(path).astype(int) - image).mean() < 1.5


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_wide_gamut_profile_is_converted_to_srgb_and_said(tmp_path, mode):
    picture = Image.new("RGB", (8, 8), (200, 60, 50)).convert(mode)
    picture.save(tmp_path / "a.png", icc_profile=icc_profile(12, 2.2))
    found = read_picture(tmp_path / "a.png")
    if mode == "L":  # a profile of colours on a grey picture fits nothing
        assert "cannot be used" in found.notes[0]
        return
    linear = (np.array([200, 60, 50]) / 255) ** 2.2 @ colour.to_bt709(12).T
    expected = np.clip(np.where(linear < 0.0031308, linear * 12.92, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055), 0, 1)
    assert np.abs(found.image[0, 0] - expected * 255).max() < 5
    assert "wide" in found.notes[0] and found.image[0, 0, 0] > 205


def test_srgb_and_broken_profiles_leave_the_picture_as_it_is(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile, notes in (("a.png", srgb, 0), ("b.png", b"no profile at all", 1)):
        Image.fromarray(ramp()).save(tmp_path / name, icc_profile=profile)
        found = read_picture(tmp_path / name)
        assert np.array_equal(found.image, ramp()) and len(found.notes) == notes


def test_adobe_rgb_without_a_profile_is_known_by_its_exif(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    Image.new("RGB", (8, 8), (190, 120, 100)).save(tmp_path / "a.jpg", exif=exif, quality=100)
    found = read_picture(tmp_path / "a.jpg")
    assert "Adobe RGB" in found.notes[0]
    assert found.image[0, 0, 0] > 200  # red that sRGB needs more of


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_values_of_fewer_bits_in_a_16_bit_picture_are_scaled_by_their_own_depth(tmp_path, bits, channels, name):
    top = 2**bits - 1
    values = np.linspace(0, top, 64).astype(np.uint16).reshape(8, 8)
    values = values if channels == 1 else np.stack([values] * channels, -1)
    if channels == 4:
        values[..., 3] = 65535
    cv2.imwrite(str(tmp_path / name), values)
    found = read_picture(tmp_path / name)
    expected = np.linspace(0, 255, 64).reshape(8, 8)
    assert found.image.shape == (8, 8, 3)
    assert np.abs(found.image[..., 1] - expected).max() <= 1.5
    assert bool(found.notes) == (bits < 16)
    assert bits == 16 or f"{bits}-bit" in found.notes[0]


def test_real_numbers_and_empty_ranges_do_not_divide_by_nothing():
    assert to_eight_bits(np.array([0.0, 0.5, 1.0]), fraction=True)[0].tolist() == [0, 128, 255]
    assert to_eight_bits(np.array([np.nan, 255.0]), fraction=True)[0].tolist() == [0, 255]
    assert to_eight_bits(np.zeros(3))[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64, "an HEIC picture.*Most Compatible"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 64, "a JPEG XL picture"),
    ],
)
def test_kinds_that_are_not_read_are_refused_in_words(tmp_path, data, message):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_image(tmp_path / "a.jpg")


def test_a_raw_picture_is_not_mistaken_for_its_thumbnail(tmp_path):
    from PIL import TiffImagePlugin

    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[50706] = b"\x01\x04\x00\x00"
    Image.fromarray(ramp()).save(tmp_path / "a.tif", tiffinfo=tags)
    with pytest.raises(UserError, match="a raw picture"):
        read_image(tmp_path / "a.tif")


def test_an_overexposed_face_is_said_and_a_bright_one_is_not():
    face = np.full((40, 40, 3), 210, np.uint8)
    assert exposure_note(face, "me.jpg") == ""
    face[:20] = 255
    assert "me.jpg is overexposed: 50%" in exposure_note(face, "me.jpg")


def test_a_picture_in_lab_colours_keeps_them_and_its_second_channel_is_no_transparency(tmp_path):
    from PIL import Image, ImageCms

    colours = np.zeros((32, 32, 3), np.uint8)
    colours[:16], colours[16:] = (200, 120, 90), (40, 90, 160)
    lab = ImageCms.profileToProfile(
        Image.fromarray(colours), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    lab.save(tmp_path / "lab.tif", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    assert np.abs(read_image(tmp_path / "lab.tif").astype(int) - colours).max() <= 10  # eight bits of LAB


@pytest.mark.parametrize("name", ["moves.gif", "moves.webp", "moves.png", "pages.tif"])
def test_of_an_animation_or_of_pages_the_first_picture_is_taken_and_that_is_said(tmp_path, name):
    from PIL import Image

    first, *others = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (200, 100, 20)]
    first.save(tmp_path / name, save_all=True, append_images=others, duration=100)
    read = read_picture(tmp_path / name)
    assert abs(int(read.image.mean()) - 200) < 4
    assert read.notes == ("the first of its 3 pictures was taken",)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv"])
def test_a_video_in_place_of_a_picture_is_named_as_one_with_the_way_to_a_frame(tmp_path, name):
    from fportrait.capture.video_io import write_video

    write_video(tmp_path / name, np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(UserError, match=r"a video.*take a frame"):
        read_image(tmp_path / name)
