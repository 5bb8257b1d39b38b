"""What the services run with: ``.env``, the environments made of it, supervisord's configuration, PostgreSQL's programs."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from dae.config.schema import ConfigError
from dae.services import environment, postgres, settings, supervision
from dae.services.postgres import ServicesError
from dae.services.settings import ServiceSettings

SECRETS = ("postgres_password", "postgres_admin_password", "mlflow_password", "mlflow_secret_key", "prefect_password")
PASSWORD = "p" * 12


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project's folder, of a path short enough for a socket below it, and no variable for the services."""
    for name in [name for name in os.environ if name.startswith("DAE_")]:
        monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory(prefix="dae-", dir="/tmp") as folder:
        monkeypatch.setenv("DAE_HOME", folder)
        yield Path(folder)


def lines(**changes: str) -> str:
    """Return the lines of an ``.env`` with passwords and what is asked for."""
    told = {name: f"{name}-of-this-project" for name in SECRETS} | changes
    return "".join(f"DAE_{name.upper()}={value}\n" for name, value in told.items())


@pytest.fixture
def load(home: Path) -> Callable[..., ServiceSettings]:
    """A function that reads an ``.env`` with passwords and what it is told."""

    def read(**changes: str) -> ServiceSettings:
        (home / ".env").write_text(lines(**changes))
        return settings.load()

    return read


# .env


def test_the_first_time_passwords_are_made_that_nobody_else_has_and_nobody_else_can_read(home: Path) -> None:
    made = settings.load_or_make()
    passwords = [getattr(made, name) for name in SECRETS]
    assert len(set(passwords)) == len(SECRETS)
    assert min(map(len, passwords)) >= 24
    assert (home / ".env").stat().st_mode & 0o077 == 0
    assert made.ports() == {"postgres": 5433, "mlflow": 5000, "prefect": 4200}
    assert (made.services_host, made.folder, made.webhook_url) == ("127.0.0.1", home / ".services", "")
    (home / ".env").unlink()
    again = settings.load_or_make()
    assert not {getattr(again, name) for name in SECRETS} & set(passwords)


def test_a_file_that_is_there_is_read_and_left_as_it_is(home: Path) -> None:
    text = lines(mlflow_port="5055")
    (home / ".env").write_text(text)
    found = settings.load_or_make()
    assert (found.mlflow_port, found.mlflow_password) == (5055, "mlflow_password-of-this-project")
    assert (home / ".env").read_text() == text


def test_a_variable_wins_over_its_line(load: Callable[..., ServiceSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAE_PREFECT_PORT", "4300")
    found = load(prefect_port="4250", mlflow_port="5055", something_else="1")
    assert (found.prefect_port, found.mlflow_port) == (4300, 5055)


def test_new_passwords_are_not_made_beside_a_cluster_with_others(home: Path) -> None:
    (home / ".services" / "postgres").mkdir(parents=True)
    (home / ".services" / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(ConfigError, match="postgres was made with its passwords; put it back"):
        settings.load_or_make()
    assert not settings.path().exists()


def test_what_is_saved_has_the_secrets_in_force(
    load: Callable[..., ServiceSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = settings.text(load())
    assert before == settings.path().read_text()
    monkeypatch.setenv("DAE_MLFLOW_PASSWORD", "of-the-environment")
    monkeypatch.setenv("DAE_MLFLOW_PORT", "6002")
    changed = settings.text(settings.load())
    line = next(line for line in before.splitlines() if line.startswith("DAE_MLFLOW_PASSWORD="))
    assert changed == before.replace(line, "DAE_MLFLOW_PASSWORD=of-the-environment")


def test_without_the_file_the_message_says_what_writes_it(home: Path) -> None:
    with pytest.raises(ConfigError, match="make services writes it") as refused:
        settings.load()
    assert str(home / ".env") in str(refused.value)
    assert {line.partition(":")[0] for line in str(refused.value).splitlines()[1:]} == {
        f"DAE_{name.upper()}" for name in SECRETS
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("postgres_port", "0"),
        ("mlflow_port", "70000"),
        ("prefect_port", "http"),
        ("services_host", ""),
        ("postgres_password", "sesame"),
        ("mlflow_password", "sesame;rm -rf ~"),
        ("prefect_password", "sesame:sesame@sesame"),
        ("mlflow_secret_key", "sesame%(ENV_HOME)s"),
        ("webhook_url", "ftp://sesame"),
        ("webhook_url", "https://sesame two"),
    ],
)
def test_a_value_that_breaks_a_rule_is_named_and_not_shown(
    load: Callable[..., ServiceSettings], name: str, value: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load(**{name: value})
    _, line = str(refused.value).splitlines()
    assert line.startswith(f"DAE_{name.upper()}: ")
    assert "sesame" not in str(refused.value)


def test_every_value_at_fault_is_told_at_once(load: Callable[..., ServiceSettings]) -> None:
    with pytest.raises(ConfigError) as refused:
        load(prefect_port="70000", prefect_password="short")
    assert "DAE_PREFECT_PORT" in str(refused.value)
    assert "DAE_PREFECT_PASSWORD" in str(refused.value)


def test_two_services_cannot_have_one_port(load: Callable[..., ServiceSettings]) -> None:
    with pytest.raises(ConfigError, match="must differ from one another, received postgres 5000, mlflow 5000"):
        load(postgres_port="5000")


def test_a_folder_too_long_for_a_socket_is_refused(load: Callable[..., ServiceSettings]) -> None:
    with pytest.raises(ConfigError, match="DAE_SERVICES_FOLDER must be a shorter path"):
        load(services_folder="x" * 80)


def test_the_folder_starts_at_the_projects_or_at_the_root(load: Callable[..., ServiceSettings], home: Path) -> None:
    assert load(services_folder="kept/here").folder == home / "kept" / "here"
    assert load(services_folder="/srv/dae").folder == Path("/srv/dae")


@pytest.mark.parametrize(
    ("host", "reached"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("10.0.0.7", "10.0.0.7")],
)
def test_clients_reach_the_services_where_they_listen(
    load: Callable[..., ServiceSettings], host: str, reached: str
) -> None:
    found = load(services_host=host)
    assert (found.mlflow_url, found.prefect_url) == (f"http://{reached}:5000", f"http://{reached}:4200")
    assert found.database("prefect", "asyncpg") == (
        f"postgresql+asyncpg://dae:{found.postgres_password}@127.0.0.1:5433/prefect"
    )


def test_settings_cannot_be_changed(load: Callable[..., ServiceSettings]) -> None:
    found = load()
    with pytest.raises(ValueError, match="frozen"):
        found.mlflow_port = 1  # type: ignore[misc]


# The environments


def test_a_shell_that_reads_the_clients_lines_can_log_in(load: Callable[..., ServiceSettings], home: Path) -> None:
    found = load(webhook_url="https://hooks.example/T0/B1")
    (home / "client.env").write_text(environment.shell(found))
    told = sourced(home / "client.env")
    assert told["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert told["PREFECT_API_AUTH_STRING"] == f"admin:{found.prefect_password}"
    assert told["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert (told["MLFLOW_TRACKING_USERNAME"], told["MLFLOW_TRACKING_PASSWORD"]) == ("admin", found.mlflow_password)
    assert told["DAE_WEBHOOK_URL"] == "https://hooks.example/T0/B1"
    assert not [name for name, value in told.items() if found.postgres_password in value]
    assert not [name for name, value in told.items() if found.postgres_admin_password in value]


def sourced(file: Path) -> dict[str, str]:
    """Return the environment of a shell that has read a file."""
    script = f"set -a; . {shlex.quote(str(file))}; set +a; env -0"
    done = subprocess.run(["sh", "-c", script], env={"PATH": os.environ["PATH"]}, capture_output=True, check=True)
    return dict(each.split("=", 1) for each in done.stdout.decode().split("\0") if each)


@pytest.mark.parametrize(
    "address", ["https://hooks.example/?a=1&b=2", "https://hooks.example/$(echo)", "https://h/'it"]
)
def test_a_webhooks_address_is_read_by_a_shell_as_it_is(
    load: Callable[..., ServiceSettings], home: Path, address: str
) -> None:
    (home / "client.env").write_text(environment.shell(load(webhook_url=address)))
    assert sourced(home / "client.env").get("DAE_WEBHOOK_URL") == address


def test_without_a_webhook_the_clients_have_none(load: Callable[..., ServiceSettings]) -> None:
    assert "DAE_WEBHOOK_URL" not in environment.of_clients(load())


def test_the_services_take_nothing_of_the_shells_prefect_and_mlflow(
    load: Callable[..., ServiceSettings], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://somewhere.example/api")
    monkeypatch.setenv("PREFECT_PROFILE", "another")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere.example")
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    found = load(mlflow_port="5055")
    given = environment.of_services(found)
    assert given["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert given["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5055"
    assert not {"PREFECT_PROFILE", "MLFLOW_TRACKING_INSECURE_TLS"} & given.keys()
    assert given["KERAS_BACKEND"] == "jax"
    assert given["PREFECT_SERVER_API_AUTH_STRING"] == given["PREFECT_API_AUTH_STRING"]
    assert (given["DAE_HOME"], given[environment.MARK]) == (str(home), str(home / ".services"))
    kept = ("PREFECT_HOME", "MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_AUTH_CONFIG_PATH")
    assert all(Path(given[name]).is_relative_to(found.folder) for name in kept)


# supervisord


def programs(found: ServiceSettings) -> dict[str, list[str]]:
    """Return the arguments each program would get, as supervisord itself reads its configuration."""
    (found.folder / "logs").mkdir(parents=True)
    file = found.folder / "supervisord.conf"
    file.write_text(supervision.configuration(found), encoding="utf-8")
    options = ServerOptions()
    options.realize(["-c", str(file)])
    return {
        each.name: shlex.split(each.command)
        for group in options.process_group_configs
        for each in group.process_configs
    }


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that installs PostgreSQL of some versions, as Debian does, with programs that do nothing."""
    root = tmp_path / "postgresql"
    root.mkdir()
    monkeypatch.setattr(postgres, "DEBIAN", root)

    def install(*versions: str, name: str = "postgres") -> Path:
        for version in versions:
            program = root / version / "bin" / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text("#!/bin/sh\n")
            program.chmod(0o755)
        return root

    return install


def test_supervisord_is_told_no_secret(load: Callable[..., ServiceSettings], installed: Callable[..., Path]) -> None:
    installed("15")
    found = load(webhook_url="https://hooks.example/T0/B1")
    text = supervision.configuration(found)
    for name in (*SECRETS, "webhook_url"):
        assert getattr(found, name) not in text, name


def test_supervisord_reads_four_programs_that_listen_where_they_are_asked_to(
    load: Callable[..., ServiceSettings], installed: Callable[..., Path]
) -> None:
    root = installed("15")
    found = load(services_host="10.0.0.7", postgres_port="6001", mlflow_port="6002", prefect_port="6003")
    read = programs(found)
    assert read.keys() == {"postgres", "mlflow", "prefect", "worker"}
    assert str(root / "15" / "bin" / "postgres") in read["postgres"]
    assert option(read["postgres"], "-D") == str(found.folder / "postgres")
    assert option(read["postgres"], "-k") == ""
    assert (option(read["postgres"], "-h"), option(read["postgres"], "-p")) == (
        "127.0.0.1",
        "6001",
    )  # whatever is asked
    for name in ("mlflow", "prefect"):
        assert option(read[name], "--host") == "10.0.0.7"
        assert option(read[name], "--port") == str(found.ports()[name])
    assert option(read["mlflow"], "--app-name") == "basic-auth"
    assert option(read["worker"], "--pool") == "dae"


def test_mlflow_answers_at_the_addresses_it_is_told(load: Callable[..., ServiceSettings]) -> None:
    assert not [name for name in environment.of_services(load()) if "ALLOWED" in name]
    found = environment.of_services(load(mlflow_origins="https://a.example,http://10.0.0.7:5000"))
    assert found["MLFLOW_SERVER_ALLOWED_HOSTS"] == "localhost:*,127.0.0.1:*,a.example,10.0.0.7:5000"
    assert found["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == "https://a.example,http://10.0.0.7:5000"
    found = environment.of_services(load(services_host="ml.example"))
    assert found["MLFLOW_SERVER_ALLOWED_HOSTS"].endswith(",ml.example:5000")
    assert found["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == "http://ml.example:5000"


@pytest.mark.parametrize("origins", ["a.example", "https://a.example/", "https://a.example, http://b.example"])
def test_an_address_of_mlflow_must_be_an_origin(load: Callable[..., ServiceSettings], origins: str) -> None:
    with pytest.raises(ConfigError, match="DAE_MLFLOW_ORIGINS"):
        load(mlflow_origins=origins)


@pytest.mark.parametrize(("number", "first"), [(0, "/usr/bin/env"), (999, None)])
def test_postgresql_gets_no_secret_where_it_runs_as_a_user_of_its_own(
    load: Callable[..., ServiceSettings],
    installed: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    first: str | None,
) -> None:
    server = str(installed("15") / "15" / "bin" / "postgres")
    monkeypatch.setattr(os, "geteuid", lambda: number)
    line = programs(load())["postgres"]
    assert line[0] == (first or server)
    assert (line[1] == "-i") == (first is not None)


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_a_folder_that_supervisord_would_misread_is_refused(load: Callable[..., ServiceSettings]) -> None:
    with pytest.raises(ConfigError, match="DAE_SERVICES_FOLDER must be a path without %"):
        load(services_folder="100%")


@pytest.mark.parametrize("folder", ["my services", "it's"])
def test_the_folder_may_have_other_strange_names(
    load: Callable[..., ServiceSettings], installed: Callable[..., Path], folder: str
) -> None:
    installed("15")
    found = load(services_folder=folder)
    try:
        read = programs(found)
    except SystemExit as refused:  # how supervisord refuses its configuration
        pytest.fail(f"exit code {refused.code}")
    assert option(read["postgres"], "-D") == str(found.folder / "postgres")


# PostgreSQL's programs


def test_a_new_cluster_gets_the_newest_version(
    load: Callable[..., ServiceSettings], installed: Callable[..., Path]
) -> None:
    root = installed("9.6", "10", "15", "13")
    assert postgres.binary(load(), "postgres") == str(root / "15" / "bin" / "postgres")


def test_a_cluster_keeps_the_version_that_made_it(
    load: Callable[..., ServiceSettings], installed: Callable[..., Path]
) -> None:
    root, found = installed("13", "15"), load()
    made_by(found, "13")
    assert postgres.binary(found, "postgres") == str(root / "13" / "bin" / "postgres")


def made_by(found: ServiceSettings, version: str) -> None:
    """Leave a cluster as a version of PostgreSQL does."""
    postgres.cluster(found).mkdir(parents=True)
    (postgres.cluster(found) / "PG_VERSION").write_text(f"{version}\n")


def test_a_version_that_was_removed_is_named(
    load: Callable[..., ServiceSettings], installed: Callable[..., Path]
) -> None:
    installed("15")
    found = load()
    made_by(found, "13")
    with pytest.raises(
        ServicesError, match=r"PostgreSQL 13, which made .*postgres, must be installed .*found no postgres"
    ):
        postgres.binary(found, "postgres")


def test_without_postgresql_the_message_says_what_to_install(
    load: Callable[..., ServiceSettings], installed: Callable[..., Path]
) -> None:
    installed()
    with pytest.raises(ServicesError, match=r"apt-get install postgresql.*found no initdb"):
        postgres.binary(load(), "initdb")
    installed("15")
    with pytest.raises(ServicesError, match=r"apt-get install postgresql.*found no initdb"):
        postgres.binary(load(), "initdb")


def test_on_other_systems_the_programs_are_those_of_the_path(
    load: Callable[..., ServiceSettings], installed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = installed("15") / "15" / "bin"
    monkeypatch.setattr(postgres, "DEBIAN", folder / "nowhere")
    monkeypatch.setenv("PATH", str(folder))
    assert postgres.binary(load(), "postgres") == str(folder / "postgres")
    with pytest.raises(ServicesError, match="found no initdb"):
        postgres.binary(load(), "initdb")


def test_postgresql_never_runs_as_root() -> None:
    name = postgres.user()
    assert (name is None) == (os.geteuid() != 0)
    assert name is None or pwd.getpwnam(name).pw_uid != 0
