import numpy as np

from kdflow import views
from kdflow.views import VIEWS, View


def test_all_162_views_differ_and_the_first_two_are_the_image_and_its_mirror_image() -> None:
    assert len(set(VIEWS)) == len(VIEWS) == 2 * 9 * 9
    assert VIEWS[:2] == (View(False, 0, 0), View(True, 0, 0))


def test_a_view_agrees_with_a_pixel_by_pixel_definition() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(len(VIEWS), 6, 7, 3), dtype=np.uint8)
    shown = views.apply(images, np.arange(len(VIEWS)))

    def reflected(position: int, size: int) -> int:
        position = abs(position)
        return position if position < size else 2 * (size - 1) - position

    for image, seen, view in zip(images, shown, VIEWS, strict=True):
        for y in range(6):
            for x in range(7):
                from_y, from_x = reflected(y - view.dy, 6), reflected(x - view.dx, 7)
                if view.flip:
                    from_x = 6 - from_x
                assert np.array_equal(seen[y, x], image[from_y, from_x]), view


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


def test_the_mirror_image_of_a_mirror_image_is_the_image() -> None:
    images = np.random.default_rng(1).integers(0, 256, size=(1, 8, 8, 3), dtype=np.uint8)
    twice = views.apply(views.apply(images, np.array([1])), np.array([1]))
    assert np.array_equal(twice, images)
