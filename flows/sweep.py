"""The entry point that deployments made before version 0.2 name; the flow is in `flows.close_orphaned_runs`."""

from flows.close_orphaned_runs import close_orphaned_runs as sweep

__all__ = ["sweep"]
