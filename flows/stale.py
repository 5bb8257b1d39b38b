"""The entry point that deployments made before version 0.2 name; the flow is in `flows.check_drift`."""

from flows.check_drift import retrain_if_stale

__all__ = ["retrain_if_stale"]
