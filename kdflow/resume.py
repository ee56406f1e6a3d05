"""When is an interrupted run resumed? A step has a checkpoint in the cache while it runs. The
same step, run again, finds the checkpoint of an interrupted or killed process and continues its
run, unless other code made it, it builds on other results or it computed in another precision: then
the console says so and it starts again. Under `mlflow run`, the run that MLflow has opened
continues it and is linked to it.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from kdflow.artifacts import checkpoints
from kdflow.artifacts.checkpoints import Checkpoint, Claim
from kdflow.config.precision import other_precision
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError, NoRoomError, UnreachableError
from kdflow.hardware import hardware
from kdflow.needs import Planned
from kdflow.sources import code_of
from kdflow.tags import CODE_TAG, HARDWARE_TAG, RESUMED_FROM_TAG
from kdflow.tracking import dead, runs, store
from kdflow.tracking.find import is_unfinished
from kdflow.tracking.run import Run
from kdflow.tracking.sync import deliver_left_over

WAIT_FOR_A_LOOK = 2  # seconds, for a process that looks at a state without using it


@contextlib.contextmanager
def run_of(
    planned: Planned,
    title: str,
    dataset: Dataset,
    *,
    parent: str | None,
    keeps_state: bool,
    resumes: bool,
    key: Callable[[], str | None],
) -> Iterator[Run]:
    """The open run of a step: a new one, or the one that was interrupted.

    Args:
        parent: the id of the run that it is a child of.
        keeps_state: whether it can be resumed after an interrupt.
        resumes: whether an interrupted one is resumed; else its state is deleted.
        key: returns the run's key; None as long as what it builds on does not exist.
    """
    with contextlib.ExitStack() as held:
        checkpoint = None
        if keeps_state:
            name = _checkpoint_name(planned, dataset, planned.config.used())
            checkpoint = held.enter_context(checkpoints.locked(name, WAIT_FOR_A_LOOK))
            if checkpoint is None:
                print(
                    f"{title}: if interrupted, this run cannot be resumed: its state cannot be"
                    " kept, or another process runs the same step"
                )
        if checkpoint is None:
            with _new_run(planned, title, dataset, parent) as run:
                yield run
            return
        if not resumes and checkpoint.clear():
            print(f"{title}: starts again with resume=never; the state that was kept is deleted")
        claim = _claim(planned, title, checkpoint, key)
        if claim:  # what its process has logged comes first
            deliver_left_over(claim.run_id)
        else:
            _say_if_in_another_precision(planned, title, dataset)
        with _opened(claim, planned, title, dataset, parent) as run:
            run.checkpoint = checkpoint
            claim_checkpoint(run, planned, claim.key if claim else "")
            try:
                yield run
            except (UnreachableError, NoRoomError):
                raise
            except KdflowError:  # the same would happen again
                checkpoint.remove()
                raise
        checkpoint.remove()


@contextlib.contextmanager
def _opened(
    claim: Claim | None, planned: Planned, title: str, dataset: Dataset, parent: str | None
) -> Iterator[Run]:
    """The run of a claim, or where there is none, or the next run is that of `mlflow run`, a new
    one, which is linked to it."""
    if claim and not runs.joins_project_run():
        with runs.resumed(claim.run_id, parent) as run:
            yield run
        return
    with _new_run(planned, title, dataset, parent) as run:
        if claim:
            run.set_tags({RESUMED_FROM_TAG: claim.run_id})
            dead.end_killed(claim.run_id)
        yield run


def claim_checkpoint(run: Run, planned: Planned, key: str) -> None:
    """Record in the run's checkpoint, if it has one, which run it belongs to."""
    if run.checkpoint:
        code = code_of(planned.step.name, planned.config.used())
        run.checkpoint.set_claim(Claim(run.run_id, code, key, hardware()))


def _new_run(
    planned: Planned, title: str, dataset: Dataset, parent: str | None
) -> contextlib.AbstractContextManager[Run]:
    tags = {CODE_TAG: code_of(planned.step.name, planned.config.used()), HARDWARE_TAG: hardware()}
    return runs.open_run(title, planned.step.name, dataset, tags, parent=parent)


def _claim(
    planned: Planned, title: str, checkpoint: Checkpoint, key: Callable[[], str | None]
) -> Claim | None:
    """The claim of the run to resume, if there is one; else the checkpoint is cleared."""
    claim = checkpoint.claim()
    if claim is None:
        if checkpoint.clear():
            print(
                f"{title}: starts again, since the record of the run that the kept state belongs to"
                " cannot be read"
            )
        return None
    reason = ""
    if not is_unfinished(claim.run_id):
        reason = "it is not in the store any more, or has ended"
    elif claim.code != code_of(planned.step.name, planned.config.used()):
        reason = "other code made it"
    elif claim.hardware != hardware():
        reason = f"it was trained on other hardware ({claim.hardware}; here: {hardware()})"
    elif claim.key and claim.key != key():
        reason = "it builds on other results"
    if not reason:
        print(f"{title}: resumes run {claim.run_id}")
        return claim
    print(f"{title}: the interrupted run {claim.run_id} is not resumed, since {reason}")
    checkpoint.clear()
    return None


def _say_if_in_another_precision(planned: Planned, title: str, dataset: Dataset) -> None:
    """Say so if the same step was interrupted in another precision; its place is left as it is."""
    used = planned.config.used()
    if "precision" not in used:
        return
    other = other_precision(used["precision"])
    name = _checkpoint_name(planned, dataset, used | {"precision": other})
    if name not in checkpoints.names():
        return
    with checkpoints.locked(name) as checkpoint:
        claim = checkpoint.claim() if checkpoint else None
    if claim and is_unfinished(claim.run_id):
        print(
            f"{title}: the interrupted run {claim.run_id} is not resumed, since it computed in"
            f" {other} (here: {used['precision']})"
        )


def _checkpoint_name(planned: Planned, dataset: Dataset, used: dict[str, Any]) -> str:
    step = planned.step  # what imports the bundled teacher has its step's name and another verb
    described = [step.name, step.verb, used, dataset.digest, store.uri()]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]
