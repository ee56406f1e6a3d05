"""Log a judged file as a model that MLflow serves, register it, and promote it."""

from pathlib import Path
from typing import NamedTuple

from kdflow.config.deploy import DeployConfig
from kdflow.dataset import Dataset
from kdflow.deploy.judge import Judged
from kdflow.deploy.manifest import sha256
from kdflow.errors import KdflowError
from kdflow.evaluate.paired import SAME, compare_paired
from kdflow.naming import is_hash
from kdflow.steps.origin import lineage
from kdflow.tags import (
    DATASET_DIGEST_TAG,
    DATASET_TAG,
    DIFFERENCE_TAG,
    FILE_DIGEST_TAG,
    FILE_TAG,
    PROMOTED_TAG,
    REGISTERED_TAG,
    VERDICT_TAG,
    upstream_tag,
)
from kdflow.tracking import registry
from kdflow.tracking.run import Run


class Served(NamedTuple):
    """What is served.

    Attributes:
        judged: its answers on the test set.
        source: the run that trained the network, or the hash of its weights.
    """

    path: Path
    manifest: Path
    judged: Judged
    source: str


def log_served(run: Run, config: DeployConfig, dataset: Dataset, served: Served) -> None:
    """Log the file as an MLflow model; register and promote it where that is asked for."""
    registry.log_served(run, served.path, served.manifest, dataset.classes)
    print(
        f"serve {served.path.name} with: mlflow models serve --env-manager local -m"
        f" runs:/{run.run_id}/{registry.SERVED_NAME}"
    )
    if config.register == "none":
        return
    tags = {
        DATASET_DIGEST_TAG: dataset.digest,
        DATASET_TAG: dataset.short_name,
        upstream_tag("model"): served.source,
        FILE_TAG: served.path.name,
        FILE_DIGEST_TAG: sha256(served.path),
        VERDICT_TAG: served.judged.paired.verdict,
        DIFFERENCE_TAG: str(served.judged.paired),
    }
    if not is_hash(served.source):
        try:
            tags |= lineage(served.source)
        except KdflowError as error:  # the runs may have been deleted since
            print(f"register: {error}; the version has no tags of its logits and teacher")
    uri = registry.stored_uri(run)
    version = registry.register(config.register, uri, run.run_id, tags)
    print(f"registered as {version}, alias {registry.CANDIDATE}")
    run.set_tags({REGISTERED_TAG: str(version)})
    if config.promote:
        _promote(run, config, dataset, version)


def _promote(run: Run, config: DeployConfig, dataset: Dataset, version: registry.Version) -> None:
    """Make the version the champion if it is shown to be as good as the present one or, where there
    is none, as the network that it was made of."""
    champion = registry.champion(config.register)
    is_promoted, words = False, f"{champion}, the champion, was judged on other images"
    if champion is None:
        verdict = version.tags[VERDICT_TAG]
        is_promoted = verdict == SAME
        words = f"there is no champion yet; verdict against Keras: {verdict}"
    elif champion.tags.get(DATASET_DIGEST_TAG) == dataset.digest:
        candidate_is_right, champion_is_right = (
            registry.answers(each, dataset.x_test).argmax(axis=1) == dataset.y_test
            for each in (version, champion)
        )
        paired = compare_paired(candidate_is_right, champion_is_right, config.loss)
        is_promoted = paired.verdict == SAME
        words = f"verdict against the champion, {champion}: {paired.verdict}, {paired}"
    if is_promoted:
        registry.promote(version)
    run.set_tags({PROMOTED_TAG: str(is_promoted).lower()})
    print(f"{'promoted to' if is_promoted else 'not promoted to'} {registry.CHAMPION}: {words}")
