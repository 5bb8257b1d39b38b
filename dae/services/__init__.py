"""The servers a team runs the pipeline on, on one machine: PostgreSQL, MLflow, Prefect, and a worker, kept by supervisord."""
