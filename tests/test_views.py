import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdflow import views
from kdflow.errors import KdflowError
from kdflow.views import MAX_SHIFT, SHIFTS, VIEW_SETS, PhotoView, View

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))


def numbered(height: int, width: int, channels: int) -> np.ndarray:
    """One image, each of whose numbers is different."""
    return np.arange(height * width * channels).reshape(1, height, width, channels)


def in_view(image: np.ndarray, view: View) -> np.ndarray:
    return views.apply(image, np.array([SHIFTS.index(view)]))


def reflected(position: int, size: int) -> int:
    """Where a position beyond the edges falls if the edges are mirrors."""
    if size == 1:
        return 0
    position %= 2 * (size - 1)
    return position if position < size else 2 * (size - 1) - position


def test_all_162_views_differ_and_the_first_two_are_the_image_and_its_mirror_image() -> None:
    assert len(set(SHIFTS)) == len(SHIFTS) == 2 * 9 * 9
    assert SHIFTS[:2] == (View(False, 0, 0), View(True, 0, 0))


def test_a_view_and_the_next_one_differ_in_their_mirroring_alone() -> None:
    assert all(a == b._replace(flip=False) for a, b in zip(SHIFTS[::2], SHIFTS[1::2], strict=True))
    assert not any(view.flip for view in SHIFTS[::2])


def test_a_view_agrees_with_a_pixel_by_pixel_definition() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(len(SHIFTS), 6, 7, 3), dtype=np.uint8)
    shown = views.apply(images, np.arange(len(SHIFTS)))
    for image, seen, view in zip(images, shown, SHIFTS, strict=True):
        for y in range(6):
            for x in range(7):
                from_y, from_x = reflected(y - view.dy, 6), reflected(x - view.dx, 7)
                if view.flip:
                    from_x = 6 - from_x
                assert np.array_equal(seen[y, x], image[from_y, from_x]), view


@given(SHAPES, st.sampled_from(SHIFTS))
def test_each_pixel_of_a_view_is_one_of_the_image_whole_and_where_a_mirror_shows_it(
    shape: tuple[int, int, int], view: View
) -> None:
    # also of images smaller than the shift, where the reflection goes to and fro
    height, width, channels = shape
    (seen,) = in_view(numbered(*shape), view)
    assert seen.shape == shape
    from_y = [reflected(y - view.dy, height) for y in range(height)]
    from_x = [reflected(x - view.dx, width) for x in range(width)]
    if view.flip:
        from_x = [width - 1 - x for x in from_x]
    pixel = np.add.outer(np.array(from_y) * width, from_x)
    assert np.array_equal(seen, pixel[..., None] * channels + np.arange(channels))


@given(
    st.integers(2 * MAX_SHIFT + 1, 20),
    st.integers(2 * MAX_SHIFT + 1, 20),
    st.sampled_from(SHIFTS),
)
def test_the_opposite_shift_brings_back_what_has_not_left_the_image(
    height: int, width: int, view: View
) -> None:
    image = numbered(height, width, 2)
    # mirrored, right and left have changed places
    back = View(view.flip, -view.dy, view.dx if view.flip else -view.dx)
    there_and_back = in_view(in_view(image, view), back)
    margin_y, margin_x = abs(view.dy), abs(view.dx)
    inner = np.s_[:, margin_y : height - margin_y, margin_x : width - margin_x]
    assert image[inner].size > 0
    assert np.array_equal(there_and_back[inner], image[inner])


@given(SHAPES)
def test_the_mirror_image_of_a_mirror_image_is_the_image(shape: tuple[int, int, int]) -> None:
    image = numbered(*shape)
    once = in_view(image, View(True, 0, 0))
    assert np.array_equal(once, image[:, :, ::-1])
    assert np.array_equal(in_view(once, View(True, 0, 0)), image)


@given(st.lists(st.tuples(st.integers(0, 161), st.integers(0, 1)), min_size=1))
def test_with_flip_changes_the_mirroring_and_keeps_the_shifts(
    chosen: list[tuple[int, int]],
) -> None:
    before, flips = np.array(chosen).T
    for view, flip, after in zip(before, flips, views.with_flip(before, flips), strict=True):
        assert SHIFTS[after] == SHIFTS[view]._replace(flip=bool(flip))


def test_each_image_gets_its_own_view_and_none_is_modified() -> None:
    images = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    before = images.copy()
    shown = views.apply(images, np.array([1, 0]))
    assert np.array_equal(shown[0], before[0, :, ::-1])
    assert np.array_equal(shown[1], before[1])
    assert np.array_equal(images, before)


def test_chosen_images_are_shown_in_the_order_of_their_indices() -> None:
    images = np.random.default_rng(2).integers(0, 256, size=(9, 6, 7, 3), dtype=np.uint8)
    chosen, indices = np.array([40, 3, 40, 0]), np.array([8, 2, 2, 5])
    shown = views.apply(images, chosen, indices)
    assert np.array_equal(shown, views.apply(images[indices], chosen))


PHOTOS = [view for view in VIEW_SETS["photos"] if isinstance(view, PhotoView)]


def in_photo_view(image: np.ndarray, **asked: object) -> np.ndarray:
    """An image, (height, width, channels), in the first view that has what is asked for."""
    found = (view for view in PHOTOS if asked.items() <= view._asdict().items())
    number = PHOTOS.index(next(found))
    shown = views.apply(image[np.newaxis], np.array([number]), views=PHOTOS)
    seen: np.ndarray = shown[0]
    return seen


def test_all_162_views_of_photos_differ_and_each_is_followed_by_its_mirror_image() -> None:
    assert len(set(PHOTOS)) == len(PHOTOS) == 2 * 9 * 9
    assert all(a == b._replace(flip=False) for a, b in zip(PHOTOS[::2], PHOTOS[1::2], strict=True))
    assert PHOTOS[:2] == [(False, 1, 0, 0, "own"), (True, 1, 0, 0, "own")]


@pytest.mark.parametrize("first", range(0, 162, 18))
def test_every_18_views_of_photos_show_each_crop_and_each_change_of_colours_once(
    first: int,
) -> None:
    shown = PHOTOS[first : first + 18 : 2]
    assert len({view.colours for view in shown}) == 9
    assert len({view[1:4] for view in shown}) == 9
    assert {view.area for view in shown} == {1, 0.9, 0.8}


def test_the_first_views_of_photos_are_the_image_and_its_mirror_image() -> None:
    images = np.random.default_rng(3).integers(0, 256, (2, 5, 7, 3), np.uint8)
    shown = views.apply(images, np.array([0, 1]), views=PHOTOS)
    assert np.array_equal(shown[0], images[0])
    assert np.array_equal(shown[1], images[1, :, ::-1])


@pytest.mark.parametrize(("down", "right"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_the_asked_part_of_the_image_resized_to_all_of_it(
    flip: bool, down: int, right: int
) -> None:
    # the brightness rises evenly to the right and downwards, so that it tells the place
    y, x = np.mgrid[:20, :30]
    image = np.repeat((2 * x + 5 * y)[..., np.newaxis], 3, axis=2).astype(np.uint8)
    seen = in_photo_view(image, flip=flip, area=0.8, down=down, right=right, colours="own")
    side = 0.8**0.5
    place_y = (1 - side) * 20 * down + side * (y + 0.5) - 0.5
    place_x = (1 - side) * 30 * right + side * (x + 0.5) - 0.5
    expected = 2 * (29 - place_x if flip else place_x) + 5 * place_y
    inner = np.s_[1:-1, 1:-1]
    assert seen[inner][..., 0] == pytest.approx(expected[inner], abs=1)


@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        ("darker", (80, 120, 160)),  # 0.8 times
        ("brighter", (120, 180, 240)),
        ("flatter", (109, 149, 189)),  # towards the mean grey, 0.299 R + 0.587 G + 0.114 B = 143
        ("harder", (89, 152, 214)),
        ("paler", (113, 148, 183)),  # towards the pixel's own grey, the same here
        ("richer", (87, 152, 217)),
        ("colder", (92, 150, 217)),  # red times 0.92, blue divided by it
        ("warmer", (108, 150, 185)),
    ],
)
def test_a_change_of_colours_multiplies_what_it_says(
    colours: str, expected: tuple[int, int, int]
) -> None:
    image = np.full((6, 6, 3), (100, 150, 200), np.uint8)
    seen = in_photo_view(image, colours=colours)
    assert seen[3, 3] == pytest.approx(expected, abs=1)


def test_grey_images_have_views_too_whose_colours_change_in_brightness_alone() -> None:
    image = np.full((6, 6, 1), 100, np.uint8)
    assert in_photo_view(image, colours="darker")[3, 3] == 80
    assert in_photo_view(image, colours="warmer")[3, 3] == 100


def test_images_that_are_neither_grey_nor_rgb_have_shifts_alone() -> None:
    with pytest.raises(KdflowError, match=r"^view_set: expected shifts .* photos with 4 channels"):
        views.check_fit("photos", (8, 8, 4))
    views.check_fit("shifts", (8, 8, 4))
    views.check_fit("photos", (8, 8, 1))


@pytest.mark.parametrize(("view_set", "steps"), [("shifts", 0), ("photos", 2)])
def test_the_mirrored_view_shows_the_mirror_image(view_set: str, steps: int) -> None:
    smooth = np.random.default_rng(0).integers(0, 256, (1, 3, 3, 3), np.uint8)
    image = np.repeat(np.repeat(smooth, 8, axis=1), 8, axis=2)
    for view in VIEW_SETS[view_set]:
        assert view.mirrored.mirrored == view
        assert view.mirrored in VIEW_SETS[view_set]
        one, two = views.apply(image, np.arange(2), np.zeros(2, int), [view, view.mirrored])
        difference = np.abs(one[:, ::-1].astype(int) - two)
        assert difference.max() <= steps, view  # of rounding, where photos are resized
