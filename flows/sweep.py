"""The entry point of deployments that were created before version 0.2. The flow is in `flows.close_orphaned_runs`."""

from flows.close_orphaned_runs import close_orphaned_runs as sweep

__all__ = ["sweep"]
