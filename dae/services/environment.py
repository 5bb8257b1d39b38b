"""The environments of the services and of their clients. Secrets are passed in them, never on a command line."""

from __future__ import annotations

import os
import shlex

from dae import storage
from dae.services.settings import LOOPBACK, PREFIX, ServiceSettings

MARK = "DAE_SERVICES_OF"
"""Every process of the services has their folder in this environment variable."""
LOOPBACK_HOSTS = ("localhost:*", "127.0.0.1:*")
SERVERS_OWN = (
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_API_AUTH_STRING",
)
"""Secrets of the servers that a worker and its runs do not need."""
DATABASES = ("mlflow", "mlflow_auth", "prefect")


def of_clients(settings: ServiceSettings) -> dict[str, str]:
    """Return what a client needs: the addresses, and how to log in."""
    webhook = {"DAE_WEBHOOK_URL": settings.webhook_url} if settings.webhook_url else {}
    return webhook | {
        "PREFECT_API_URL": f"{settings.prefect_url}/api",
        "PREFECT_API_AUTH_STRING": f"admin:{settings.prefect_password}",
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": settings.mlflow_password,
    }


def of_services(settings: ServiceSettings) -> dict[str, str]:
    """Return the environment of supervisord, which its programs inherit."""
    folder = settings.folder
    auth = f"admin:{settings.prefect_password}"
    own = of_clients(settings) | {
        MARK: str(folder),
        "DAE_HOME": str(storage.project_home()),
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": settings.mlflow_password,
        "MLFLOW_BACKEND_STORE_URI": settings.database("mlflow", "psycopg2"),
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": settings.mlflow_secret_key,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "PREFECT_HOME": str(folder / "prefect"),
        # Prefect's pages as it serves them; by default it writes them into the installed package.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(folder / "prefect" / "ui"),
        "PREFECT_API_DATABASE_CONNECTION_URL": settings.database("prefect", "asyncpg"),
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # If leases were in memory, a restart of the server would end every run under a concurrency limit.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_UI_API_URL": "/api",  # relative to the address of the pages
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "PYTHONUNBUFFERED": "1",
    }
    settings_own = {f"{PREFIX}{field.upper()}" for field in ServiceSettings.model_fields}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_")) and name not in settings_own
    }
    return inherited | own | _allowed(settings)


def _allowed(settings: ServiceSettings) -> dict[str, str]:
    """Return the addresses at which MLflow answers, if others than the local ones are configured."""
    origins = [origin for origin in settings.mlflow_origins.split(",") if origin]
    if settings.reached_at != LOOPBACK:
        origins.append(settings.mlflow_url)
    if not origins:
        return {}
    hosts = [origin.partition("://")[2] for origin in origins]
    return {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*LOOPBACK_HOSTS, *hosts]),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
    }


def basic_auth(settings: ServiceSettings) -> str:
    """Return the configuration of MLflow's basic-auth app: users that are added may read but not write.

    A successful login is cached for a minute, since checking it takes 0.1 s for each request. A login that is changed or
    removed through the server becomes invalid at once, since the server is one process.
    """
    return (
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {settings.database('mlflow_auth', 'psycopg2')}\n"
        "admin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 60\n"
    )


def shell(settings: ServiceSettings) -> str:
    """Return the clients' environment as lines that a shell can read."""
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in of_clients(settings).items())
    return f"# Points a shell at the services: set -a; . {settings.folder / 'client.env'}; set +a\n{lines}"
