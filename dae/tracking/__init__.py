"""MLflow's record: runs, logged models, and where a result came from."""
