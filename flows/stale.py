"""The entry point of deployments that were created before version 0.2. The flow is in `flows.check_drift`."""

from flows.check_drift import retrain_if_stale

__all__ = ["retrain_if_stale"]
