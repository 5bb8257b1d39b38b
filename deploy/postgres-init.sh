#!/bin/sh
# Run by the image of PostgreSQL once, while the volume is new: the role and the databases, as dae/services/postgres.py makes them.
set -eu
: "${DAE_POSTGRES_PASSWORD:?must be set}"

# psql reads the password from the environment, so that it stands on no command line.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv password DAE_POSTGRES_PASSWORD
CREATE ROLE dae LOGIN PASSWORD :'password';
CREATE DATABASE mlflow OWNER dae;
CREATE DATABASE mlflow_auth OWNER dae;
CREATE DATABASE prefect OWNER dae;
REVOKE ALL ON DATABASE mlflow, mlflow_auth, prefect FROM PUBLIC;
SQL
