#!/bin/sh
# MLflow's basic-auth app takes the address of its database, password included, from a file alone. It is written when the
# container starts, for its user alone, and is in no image. The text is that of dae/services/environment.py.
set -eu
umask 077
cat >"${MLFLOW_AUTH_CONFIG_PATH:?must be set}" <<INI
[mlflow]
default_permission = READ
database_uri = ${MLFLOW_BACKEND_STORE_URI:?must be set}_auth
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
INI
if [ -n "${MLFLOW_SERVER_CORS_ALLOWED_ORIGINS:-}" ]; then
	hosts=$(printf %s "$MLFLOW_SERVER_CORS_ALLOWED_ORIGINS" | sed 's#https*://##g')
	export MLFLOW_SERVER_ALLOWED_HOSTS="$MLFLOW_SERVER_ALLOWED_HOSTS,$hosts"
fi
if [ "$*" = upgrade ]; then # of the databases; libpq has the password from the environment
	rest=${MLFLOW_BACKEND_STORE_URI#*://dae:}
	export PGPASSWORD="${rest%%@*}"
	address="${MLFLOW_BACKEND_STORE_URI%%:"$PGPASSWORD"@*}@${rest#*@}"
	mlflow db upgrade "$address"
	exec python -m mlflow.server.auth db upgrade --url "${address}_auth"
fi
exec "$@"
