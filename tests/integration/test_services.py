"""The services: from nothing to healthy, closed to whoever has no password, and down again."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

import httpx
import psutil
import psycopg2
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from .conftest import Team

OF_MLFLOW = [
    ("GET", "/"),
    ("GET", "/version"),
    ("GET", "/metrics"),
    ("GET", "/api/2.0/mlflow/experiments/search?max_results=1"),
    ("GET", "/ajax-api/2.0/mlflow/experiments/search?max_results=1"),
    ("POST", "/api/2.0/mlflow/runs/search"),
    ("POST", "/api/2.0/mlflow/runs/create"),
    ("POST", "/api/2.0/mlflow/registered-models/create"),
    ("POST", "/api/2.0/mlflow/registered-models/alias"),
    ("DELETE", "/api/2.0/mlflow/registered-models/alias"),
    ("GET", "/api/2.0/mlflow-artifacts/artifacts"),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/x"),
    ("GET", "/get-artifact?path=x&run_uuid=y"),
    ("POST", "/graphql"),
    ("POST", "/v1/traces"),
    ("GET", "/signup"),
    ("POST", "/api/2.0/mlflow/users/create"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
]
OF_PREFECT = [
    ("POST", "/api/flow_runs/filter"),
    ("POST", "/api/flow_runs/"),
    ("POST", "/api/deployments/filter"),
    ("POST", "/api/logs/filter"),
    ("POST", "/api/artifacts/filter"),
    ("POST", "/api/block_documents/filter"),
    ("POST", "/api/automations/filter"),
    ("POST", "/api/automations/"),
    ("POST", "/api/work_pools/dae/get_scheduled_flow_runs"),
    ("POST", "/api/work_pools/dae/workers/heartbeat"),
    ("GET", "/api/admin/settings"),
    ("GET", "/api/version"),
]


def test_they_come_up_from_nothing_and_say_where(
    first_start: tuple[Team, subprocess.CompletedProcess[str]],
) -> None:
    team, started = first_start
    for name in ("postgres", "mlflow", "prefect", "worker"):
        assert any(line.startswith(name) and line.endswith("healthy") for line in started.stdout.splitlines())
    assert team.mlflow_url in started.stdout
    assert team.prefect_url in started.stdout
    assert started.stderr == ""


def test_called_twice_nothing_is_started_again(services: Team) -> None:
    before = {process.pid for process in services.processes()}
    again = services.dae("services", "up", anonymous=True)
    assert again.returncode == 0, again.stderr
    assert "waiting" not in again.stdout
    assert before <= {process.pid for process in services.processes()}


def test_everything_listens_on_loopback_alone(services: Team) -> None:
    listening = set()
    for process in services.processes():
        with suppress(psutil.NoSuchProcess):
            found = process.net_connections("inet")
            listening |= {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def passwords(team: Team) -> dict[str, str]:
    lines = (team.home / ".env").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line[:1] not in ("#", "")]
    return {name: value for name, value in pairs if name.endswith(("PASSWORD", "KEY"))}


def test_passwords_are_private_and_of_this_project_alone(services: Team) -> None:
    secrets = passwords(services)
    assert len(set(secrets.values())) == len(secrets) == 5
    assert min(map(len, secrets.values())) >= 24
    for file in (".env", ".services/client.env", ".services/basic_auth.ini"):
        assert (services.home / file).stat().st_mode & 0o077 == 0
    shown = " ".join(" ".join(process.cmdline()) for process in services.processes())
    readable = (services.folder / "supervisord.conf").read_text()
    assert not [value for value in secrets.values() if value in shown or value in readable]


def test_the_worker_has_the_logins_of_a_client_alone(services: Team) -> None:
    known = " ".join(services.worker().environ().values())
    assert [name for name, value in passwords(services).items() if value in known] == [
        "DAE_MLFLOW_PASSWORD",
        "DAE_PREFECT_PASSWORD",
    ]


def test_postgresql_has_no_login_of_the_others_where_it_runs_as_another_user(services: Team) -> None:
    server = services.processes("postgres", "-D")[0]
    known = server.environ().values()
    if server.uids().real != os.getuid():
        assert not [name for name, value in passwords(services).items() if value in " ".join(known)]


@pytest.mark.parametrize("login", [None, ("admin", "password"), ("admin", ""), ("nobody", "password1234")])
def test_mlflow_lets_nobody_in_without_the_password(services: Team, login: tuple[str, str] | None) -> None:
    for method, path in OF_MLFLOW:
        answer = httpx.request(method, services.mlflow_url + path, json={}, auth=login)
        assert answer.status_code == httpx.codes.UNAUTHORIZED, (method, path, answer.status_code)


def test_a_password_that_is_changed_and_a_user_that_is_removed_are_let_in_no_more(services: Team) -> None:
    """At once, though MLflow does not check a password anew at each request."""
    users, admin = f"{services.mlflow_url}/api/2.0/mlflow/users", ("admin", services.login["MLFLOW_TRACKING_PASSWORD"])

    def status(password: str) -> int:
        url = f"{services.mlflow_url}/api/2.0/mlflow/experiments/search?max_results=1"
        return httpx.get(url, auth=("ada", password)).status_code

    def changed(method: str, path: str, **body: str) -> None:
        httpx.request(method, f"{users}/{path}", json={"username": "ada"} | body, auth=admin).raise_for_status()

    changed("POST", "create", password="first-password")
    assert [status("first-password"), status("first-password"), status("guess-password")] == [200, 200, 401]
    changed("PATCH", "update-password", password="second-password")
    assert [status("first-password"), status("second-password")] == [401, 200]
    changed("DELETE", "delete")
    assert status("second-password") == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "mlflow.test", "Origin": "https://mlflow.test"}, 200),
        ({"Host": "evil.test"}, 403),
        ({"Host": "mlflow.test", "Origin": "https://evil.test"}, 403),
    ],
)
def test_mlflow_is_reached_at_the_addresses_it_was_told_alone(
    services: Team, headers: dict[str, str], status: int
) -> None:
    login = ("admin", services.login["MLFLOW_TRACKING_PASSWORD"])
    url = f"{services.mlflow_url}/ajax-api/2.0/mlflow/runs/search"
    answer = httpx.post(url, json={"experiment_ids": ["0"]}, headers=headers, auth=login)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("login", [None, ("admin", "password"), ("admin", "")])
def test_prefect_lets_nobody_in_without_the_password(services: Team, login: tuple[str, str] | None) -> None:
    for method, path in OF_PREFECT:
        answer = httpx.request(method, services.prefect_url + path, json={}, auth=login)
        assert answer.status_code == httpx.codes.UNAUTHORIZED, (method, path, answer.status_code)


@pytest.mark.parametrize("user", ["dae", "postgres"])
def test_postgresql_lets_nobody_in_without_the_password(services: Team, user: str) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(
            host="127.0.0.1", port=services.ports["POSTGRES"], user=user, dbname="mlflow", password="guess"
        )


def test_the_role_of_the_servers_is_no_superuser(services: Team) -> None:
    login = {"user": "dae", "dbname": "mlflow", "password": passwords(services)["DAE_POSTGRES_PASSWORD"]}
    with (
        psycopg2.connect(host="127.0.0.1", port=services.ports["POSTGRES"], **login) as opened,
        opened.cursor() as cursor,
        pytest.raises(psycopg2.errors.InsufficientPrivilege),
    ):
        cursor.execute("COPY (SELECT 1) TO PROGRAM 'true'")
    opened.close()


def test_without_credentials_nothing_is_run_or_promoted(team: Team) -> None:
    address = {"PREFECT_API_URL": f"{team.prefect_url}/api", "MLFLOW_TRACKING_URI": team.mlflow_url}
    with team.prefect() as client:
        before = client.read_flow_runs(limit=200)
    for arguments in (["trigger", "ci"], ["deploy", "--check"], ["models", "--name", "dae-smoke"], ["promote", "1"]):
        done = team.dae(*arguments, anonymous=True, more=address)
        assert done.returncode in (1, 2), done.stdout
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ")
    with team.prefect() as client:
        assert {run.id for run in client.read_flow_runs(limit=200)} <= {run.id for run in before}


def test_mlflow_client_without_credentials_is_refused(services: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with pytest.raises(MlflowException, match=r"401|authenticated"):
        MlflowClient(services.mlflow_url).set_registered_model_alias("dae", "champion", "1")


def test_a_port_in_use_is_named_with_who_has_it_and_nothing_is_started(services: Team, other: Team) -> None:
    taken = str(services.ports["MLFLOW"])
    done = other.dae("services", "up", anonymous=True, more={"DAE_MLFLOW_PORT": taken})
    assert done.returncode == 1
    assert f"port {taken} of mlflow must be free" in done.stderr
    assert "DAE_MLFLOW_PORT" in done.stderr
    assert other.processes() == []


def test_bad_settings_are_named_and_secrets_are_not_shown(other: Team) -> None:
    done = other.dae(
        "services", "up", anonymous=True, more={"DAE_PREFECT_PORT": "70000", "DAE_PREFECT_PASSWORD": "sesame"}
    )
    assert done.returncode == 2
    assert "DAE_PREFECT_PORT" in done.stderr
    assert "DAE_PREFECT_PASSWORD" in done.stderr
    assert "sesame" not in done.stderr
