"""The networks, one file each: how it is built, how it is trained, which layer gives hints."""

from kdflow.catalogue.networks.dense import DENSE
from kdflow.catalogue.networks.fast import FAST
from kdflow.catalogue.networks.fitnet import FITNET
from kdflow.catalogue.networks.pupil import PUPIL
from kdflow.catalogue.networks.student import STUDENT
from kdflow.catalogue.networks.vgg import VGG

NETWORKS = {network.name: network for network in (VGG, FAST, STUDENT, PUPIL, FITNET, DENSE)}
