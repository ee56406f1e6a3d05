"""The networks, one file each: how it is built, how it is trained, which layer gives hints."""

from kdflow.catalogue.networks.compact import BROAD, COMPACT, MINI
from kdflow.catalogue.networks.dense import DENSE
from kdflow.catalogue.networks.fast import FAST, WHITENED
from kdflow.catalogue.networks.fitnet import FITNET
from kdflow.catalogue.networks.own import FORMS, own_name, own_network
from kdflow.catalogue.networks.pupil import PUPIL
from kdflow.catalogue.networks.record import Network
from kdflow.catalogue.networks.resnet20 import RESNET20
from kdflow.catalogue.networks.student import STUDENT
from kdflow.catalogue.networks.vgg import VGG

ALL = (VGG, FAST, STUDENT, PUPIL, FITNET, RESNET20, WHITENED, DENSE, BROAD, COMPACT, MINI)
NETWORKS = {network.name: network for network in ALL}


def find_network(typed: str) -> Network:
    """The record that a user means by `typed`: a name of the catalogue, or a network of their own.

    Raises:
        ValueError: it is neither, or a file that does not exist.
    """
    record = NETWORKS.get(typed) or own_network(typed)
    if record is None:
        names = ", ".join(f"'{name}'" for name in NETWORKS)
        raise ValueError(f"expected {names}, or one of your own, {FORMS}")
    return record


def network_name(typed: str) -> str:
    """What the network `typed` is called, also once its file is gone."""
    return own_name(typed) or typed


def is_network(typed: str) -> bool:
    """Whether `typed` names a network, which can be built and trained."""
    try:
        find_network(typed)
    except ValueError:
        return False
    return True
