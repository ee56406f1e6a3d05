"""What several steps refuse before a run is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kdflow.config.training import TrainingConfig
from kdflow.needs import Found, Planned

if TYPE_CHECKING:
    from kdflow.dataset import Dataset


def check_network(
    config: TrainingConfig, dataset: Dataset, inputs: Mapping[str, Found | Planned]
) -> None:
    """Refuse images that the network or the views cannot take, and a dropout that the network does
    not have."""
    from kdflow import network, views

    views.check_fit(config.view_set, dataset.image_shape)
    network.check_fit(
        config.network,
        dataset.image_shape,
        dataset.classes,
        config.dropout,
        keeps_weights=config.keeps_weights,
    )
