"""From a trained model to the champion: the gate, the registry, the audit log, promotion and rollback."""
