"""Deliver what processes that have ended could not deliver, and end the runs of killed ones."""

import contextlib

from kdflow.errors import UnfitError, UnreachableError, reason
from kdflow.tracking import dead, journal, store
from kdflow.tracking.delivery import deliver, is_taken_over
from kdflow.tracking.journal import Journal


def deliver_left_over(waited_for: str = "") -> list[Journal]:
    """Deliver the journals that ended processes of this machine have left for the tracking store.
    A run whose process was killed becomes KILLED, unless another machine has gone on with it; it
    can be resumed all the same.

    Args:
        waited_for: the id of a run whose journals may be delivered by another process at this very
            moment, which is waited for.

    Returns:
        The journals that are for other stores.

    Raises:
        UnreachableError: the store does not answer. What it does not have is kept.
    """
    elsewhere = []
    with journal.left_over(waited_for) as journals:
        for left in journals:
            if left.opened.store == store.address():
                _deliver_all(left)
            else:
                elsewhere.append(left)
    return elsewhere


def _deliver_all(left: Journal) -> None:
    waiting, run_id = left.waiting(), left.opened.run_id
    refused = []
    for entry in waiting:
        try:
            deliver(left, entry)
        except Exception as error:  # what an unreachable server raises depends on the store
            if store.is_unreachable(error):
                raise UnreachableError(
                    f"sync: what run {run_id} logged is not delivered, since"
                    f" {store.what_it_does(error)}; it is kept in {left.folder}"
                ) from error
            refused.append(reason(error))
            left.rejected = refused[0]  # so that the run does not end FINISHED
        left.set_delivered(entry)
    if left.opened.ends_run and not left.has_ended():

        def end_unless_taken_over() -> None:
            if not is_taken_over(left):
                dead.end_killed(run_id)

        with contextlib.suppress(UnfitError):  # the run is deleted for good
            store.with_retries(f"run {run_id}", end_unless_taken_over)
    if refused:
        print(
            f"sync: the store rejected {len(refused)} of {len(waiting)} entries of run {run_id}:"
            f" {refused[0]}"
        )
    elif waiting:
        print(f"sync: delivered {len(waiting)} waiting entries of run {run_id}")
    left.remove()
