import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdflow import views
from kdflow.config.views import Views
from kdflow.dataset import Dataset, Images
from kdflow.training.objective import Distillation
from kdflow.training.order import epoch_data, epoch_order


def test_an_epochs_order_is_a_permutation_that_follows_from_seed_and_epoch_alone() -> None:
    indices = np.arange(100, 200)
    order, shown = epoch_order(indices, seed=1, epoch=2, view_count=3)
    np.random.seed(0)
    again = epoch_order(indices, seed=1, epoch=2, view_count=3)
    assert sorted(order) == list(indices)
    assert set(shown) == {0, 1, 2}
    assert np.array_equal(order, again[0])
    assert np.array_equal(shown, again[1])
    for seed, epoch in [(1, 3), (2, 2), (2, 1)]:
        assert not np.array_equal(order, epoch_order(indices, seed, epoch)[0])


@given(
    indices=st.lists(st.integers(0, 500), min_size=1, max_size=40, unique=True),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(1, 1000),
    view_count=st.integers(1, len(views.SHIFTS)),
    state=st.integers(0, 1000),
)
def test_any_epoch_shows_each_image_once_in_a_view_that_there_is(
    indices: list[int], seed: int, epoch: int, view_count: int, state: int
) -> None:
    given_indices = np.array(indices)
    order, shown = epoch_order(given_indices, seed, epoch, view_count)
    assert sorted(order) == sorted(indices)
    assert given_indices.tolist() == indices
    assert shown.shape == order.shape
    assert (shown >= 0).all()
    assert (shown < view_count).all()
    np.random.seed(state)  # whatever ran before
    again = epoch_order(given_indices, seed, epoch, view_count)
    assert np.array_equal(order, again[0])
    assert np.array_equal(shown, again[1])


@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(1, 1000), half=st.integers(1, 81))
def test_two_epochs_in_a_row_show_both_an_image_and_its_mirror_image(
    seed: int, epoch: int, half: int
) -> None:
    # of an even number of views, so that each has its mirrored one
    flips = []
    for each in (epoch, epoch + 1):
        order, shown = epoch_order(np.arange(20), seed, each, 2 * half)
        flips.append(shown[np.argsort(order)] % 2)
    assert np.array_equal(flips[0], 1 - flips[1])


def test_every_image_is_mirrored_in_every_other_epoch_and_shifted_at_random() -> None:
    indices = np.arange(100, 300)
    shown = []
    for epoch in (1, 2, 3):
        order, chosen = epoch_order(indices, seed=1, epoch=epoch, view_count=50)
        shown.append(chosen[np.argsort(order)])
    flips = np.array([[views.SHIFTS[view].flip for view in chosen] for chosen in shown])
    assert np.array_equal(flips[0], ~flips[1])
    assert np.array_equal(flips[0], flips[2])
    assert 60 < flips[0].sum() < 140
    assert np.mean(shown[0] // 2 == shown[1] // 2) < 0.2  # one in 25 by chance
    assert set(shown[0]) | set(shown[1]) | set(shown[2]) == set(range(50))


@pytest.mark.parametrize(
    "shown",
    [Views(1), Views(2), Views(162), Views(2, "photos"), Views(162, "photos")],
)
def test_the_image_that_is_seen_and_the_image_whose_logits_are_taught_are_the_same(
    tiny: Dataset, train: Images, shown: Views
) -> None:
    # this teacher's logits are the first pixels of what it was shown, so they tell the image
    def first_pixels(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1)[:, :50].astype(np.float32)

    in_set = views.VIEW_SETS[shown.view_set]
    logits = np.stack(
        [
            first_pixels(views.apply(tiny.x_train, np.full(60, view), views=in_set))
            for view in range(shown.count)
        ]
    )
    distillation = Distillation(logits, temp=4, alpha=0.9)
    for epoch in (1, 2):
        images, targets = epoch_data(train, distillation, shown, seed=0, epoch=epoch)
        assert np.array_equal(targets["teacher_logits"], first_pixels(images))
        order, _ = epoch_order(train.indices, 0, epoch, shown.count)
        assert np.array_equal(targets["labels"], tiny.y_train[order])
