import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdflow import views
from kdflow.views import MAX_SHIFT, VIEWS, View

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))


def numbered(height: int, width: int, channels: int) -> np.ndarray:
    """One image, each of whose numbers is different."""
    return np.arange(height * width * channels).reshape(1, height, width, channels)


def in_view(image: np.ndarray, view: View) -> np.ndarray:
    return views.apply(image, np.array([VIEWS.index(view)]))


def reflected(position: int, size: int) -> int:
    """Where a position beyond the edges falls if the edges are mirrors."""
    if size == 1:
        return 0
    position %= 2 * (size - 1)
    return position if position < size else 2 * (size - 1) - position


def test_all_162_views_differ_and_the_first_two_are_the_image_and_its_mirror_image() -> None:
    assert len(set(VIEWS)) == len(VIEWS) == 2 * 9 * 9
    assert VIEWS[:2] == (View(False, 0, 0), View(True, 0, 0))


def test_a_view_and_the_next_one_differ_in_their_mirroring_alone() -> None:
    assert all(a == b._replace(flip=False) for a, b in zip(VIEWS[::2], VIEWS[1::2], strict=True))
    assert not any(view.flip for view in VIEWS[::2])


def test_a_view_agrees_with_a_pixel_by_pixel_definition() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(len(VIEWS), 6, 7, 3), dtype=np.uint8)
    shown = views.apply(images, np.arange(len(VIEWS)))
    for image, seen, view in zip(images, shown, VIEWS, strict=True):
        for y in range(6):
            for x in range(7):
                from_y, from_x = reflected(y - view.dy, 6), reflected(x - view.dx, 7)
                if view.flip:
                    from_x = 6 - from_x
                assert np.array_equal(seen[y, x], image[from_y, from_x]), view


@given(SHAPES, st.sampled_from(VIEWS))
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
    st.sampled_from(VIEWS),
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
        assert VIEWS[after] == VIEWS[view]._replace(flip=bool(flip))


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
