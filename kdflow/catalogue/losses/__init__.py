"""The losses, one file each: the soft term, its own weights, its paper."""

from kdflow.catalogue.losses.dist import DIST
from kdflow.catalogue.losses.dkd import DKD
from kdflow.catalogue.losses.kd import KD
from kdflow.catalogue.losses.ls import LS

LOSSES = {loss.name: loss for loss in (KD, DKD, DIST, LS)}
