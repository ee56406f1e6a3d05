"""Deliver what could not be delivered while a tracking store did not answer."""

from kdflow.commands.command import Command, CommandConfig


class SyncConfig(CommandConfig):
    """Deliver to the tracking store what runs logged while it did not answer. The next step does
    the same before it begins."""


def run(config: SyncConfig) -> None:
    from kdflow.tracking import store
    from kdflow.tracking.sync import deliver_left_over

    store.open_store()
    elsewhere = deliver_left_over()
    for left in elsewhere:
        print(
            f"sync: {len(left.waiting())} entries of run {left.opened.run_id} are for the tracking"
            f" store {left.opened.store}; set MLFLOW_TRACKING_URI to it and run sync again"
        )
    print(f"sync: {store.address()} has all entries that can be delivered")


SYNC = Command("sync", SyncConfig, run)
