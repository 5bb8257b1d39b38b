"""The servers of a team on one machine: PostgreSQL, MLflow, Prefect and a worker, supervised by supervisord."""
