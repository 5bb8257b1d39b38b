"""What the Prefect server holds, how it gets there, and how a run of it is started."""
