import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT
from PIL import ExifTags, Image

from kdflow.catalogue.datasets.photo import FORMATS, InvalidImageError, pixels_of, size_of

# Four colours, a quadrant each: red, green / blue, white.
QUADRANTS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)


def enlarged(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return pixels.repeat(height, axis=0).repeat(width, axis=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "photo.png"


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_as_pillow_reads_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "named-otherwise.jpg"  # the content decides, not the name
    Image.fromarray(enlarged(QUADRANTS, 16, 8)).save(path, format=kind)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels_of(path), expected)
    assert size_of(path) == (16, 32)


def test_of_an_animation_it_is_the_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert (pixels_of(path) == [255, 0, 0]).all()


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, QUADRANTS),
        (2, QUADRANTS[:, ::-1]),
        (3, np.rot90(QUADRANTS, 2)),
        (4, QUADRANTS[::-1]),
        (5, QUADRANTS.transpose(1, 0, 2)),
        (6, np.rot90(QUADRANTS, -1)),
        (7, np.rot90(QUADRANTS, 2).transpose(1, 0, 2)),
        (8, np.rot90(QUADRANTS, 1)),
    ],
)
def test_it_is_turned_as_its_exif_orientation_says(
    file: Path, orientation: int, turned: np.ndarray
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(enlarged(QUADRANTS, 3, 2)).save(file, exif=exif)
    heights_and_widths = (2, 3) if orientation > 4 else (3, 2)
    assert np.array_equal(pixels_of(file), enlarged(turned, *heights_and_widths))
    assert size_of(file) == (2 * heights_and_widths[1], 2 * heights_and_widths[0])


def test_grey_and_palette_images_become_rgb(file: Path) -> None:
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    Image.fromarray(grey).save(file)
    assert np.array_equal(pixels_of(file), grey[..., np.newaxis].repeat(3, axis=-1))
    Image.fromarray(QUADRANTS).quantize(4).save(file)
    assert np.array_equal(pixels_of(file), QUADRANTS)
    Image.fromarray(grey > 150).save(file)
    assert np.array_equal(pixels_of(file)[..., 0], [[0, 0], [255, 255]])


def test_16_bits_are_scaled_and_not_clipped(file: Path) -> None:
    numbers = np.array([[0, 256], [257 * 100, 65535]], np.uint16)
    Image.fromarray(numbers).save(file)
    with Image.open(file) as image:
        assert image.mode.startswith("I")
    assert np.array_equal(pixels_of(file)[..., 1], [[0, 1], [100, 255]])


def test_what_is_transparent_is_seen_on_white(file: Path) -> None:
    half = np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 128]]], np.uint8)
    Image.fromarray(half).save(file)
    expected = np.array([[[255, 255, 255], [0, 0, 0], [255, 127, 127]]])
    assert np.abs(pixels_of(file).astype(int) - expected).max() <= 1
    palette = Image.fromarray(QUADRANTS).quantize(4)
    red = palette.getpixel((0, 0))
    palette.save(file, transparency=red)
    seen = QUADRANTS.copy()
    seen[0, 0] = 255
    assert np.array_equal(pixels_of(file), seen)
    grey = np.array([[[0, 0], [7, 255]]], np.uint8)
    Image.fromarray(grey, "LA").save(file)
    assert np.array_equal(pixels_of(file)[..., 0], [[255, 7]])


def test_the_shorter_side_is_resized_and_the_longer_one_cropped_in_the_middle(file: Path) -> None:
    # three stripes of 20 pixels, 40 high: half of the left and of the right one is cut off
    stripes = np.zeros((40, 60, 3), np.uint8)
    stripes[:, 20:40] = 255
    Image.fromarray(stripes).save(file)
    seen = pixels_of(file, side=8)
    assert seen.shape == (8, 8, 3)
    expected = Image.fromarray(stripes[:, 10:50]).resize((8, 8), Image.Resampling.BICUBIC)
    assert np.array_equal(seen, np.asarray(expected))
    assert (seen[:, [0, 7]] < 30).all()
    assert (seen[:, 3:5] > 225).all()
    Image.fromarray(stripes.transpose(1, 0, 2)).save(file)
    assert np.array_equal(pixels_of(file, side=8), seen.transpose(1, 0, 2))


def test_a_large_jpeg_is_nearly_what_it_is_when_it_is_decoded_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (12, 20, 3), np.uint8)
    photo = Image.fromarray(rough).resize((1600, 960), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as image:
        whole = image.crop((320, 0, 1280, 960)).resize((32, 32), Image.Resampling.BICUBIC)
    difference = pixels_of(tmp_path / "large.jpg", side=32) - np.asarray(whole).astype(float)
    assert np.abs(difference).max() < 6


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a JPEG, PNG, WEBP, BMP or GIF image"),
        (b"notes on the photos", "not a JPEG, PNG, WEBP, BMP or GIF image"),
        ("half", "truncated"),
    ],
)
def test_what_is_no_image_or_half_of_one_is_refused(
    tmp_path: Path, content: bytes | str, reason: str
) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(enlarged(QUADRANTS, 40, 40)).save(path)
    path.write_bytes(path.read_bytes()[:-200] if isinstance(content, str) else content)
    with pytest.raises(InvalidImageError, match=reason):
        pixels_of(path)


def test_other_formats_are_not_read(tmp_path: Path) -> None:
    Image.fromarray(QUADRANTS).save(tmp_path / "photo.tiff")
    for read in (pixels_of, size_of):
        with pytest.raises(InvalidImageError, match="not a JPEG, PNG, WEBP, BMP or GIF image"):
            read(tmp_path / "photo.tiff")


def test_the_example_of_the_docs_gives_the_pixels_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    (example,) = re.findall(r"```python\n(from PIL .*?)```", page, re.DOTALL)
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn
    Image.fromarray(noise).save(tmp_path / "photo.jpg", exif=exif)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"np": np}
    exec(example, names)
    assert np.array_equal(names["pixels"], [pixels_of(tmp_path / "photo.jpg", 96)])
