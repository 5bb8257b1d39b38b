"""Settings of the services: ``.env``, which is created from ``.env.example`` with new passwords."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from dae import command_lines, storage
from dae.config.schema import ConfigError

EXAMPLE = storage.PACKAGE_ROOT / ".env.example"
PREFIX = "DAE_"
LOOPBACK = "127.0.0.1"
EVERYWHERE = ("0.0.0.0", "::")
CLUSTER = "postgres"
SECRETS = ("_PASSWORD", "_SECRET_KEY")
SOCKET_PATH = 90
"""The path of a socket may have about 107 characters, and supervisord adds a few for a temporary name."""

Port = Annotated[int, Field(ge=1, le=65535)]
Secret = Annotated[str, Field(min_length=12, pattern=r"^[A-Za-z0-9_-]+$")]
"""Only letters, digits, _ and -, since it is not quoted in addresses and ini files. MLflow requires at least 12."""


class ServiceSettings(BaseSettings):
    """Every variable of ``.env``, as a field named without the prefix ``DAE_``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True)

    services_host: Annotated[str, Field(min_length=1)] = LOOPBACK
    services_folder: Path = Path(".services")
    postgres_port: Port = 5433
    postgres_password: Secret
    postgres_admin_password: Secret
    mlflow_port: Port = 5000
    mlflow_password: Secret
    mlflow_origins: Annotated[str, Field(pattern=r"^(https?://[^\s,/]+(,https?://[^\s,/]+)*)?$")] = ""
    mlflow_secret_key: Secret
    prefect_port: Port = 4200
    prefect_password: Secret
    webhook_url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""

    @property
    def folder(self) -> Path:
        """The folder of all data of the services."""
        return (storage.project_home() / self.services_folder.expanduser()).resolve()

    @property
    def socket(self) -> Path:
        """The socket on which supervisord listens."""
        return self.folder / "supervisor.sock"

    @property
    def reached_at(self) -> str:
        """The address clients on this machine use."""
        return LOOPBACK if self.services_host in EVERYWHERE else self.services_host

    @property
    def authority(self) -> str:
        """The same in the form of a URL: an IPv6 address is in brackets."""
        return f"[{self.reached_at}]" if ":" in self.reached_at else self.reached_at

    @property
    def mlflow_url(self) -> str:
        """MLflow's address."""
        return f"http://{self.authority}:{self.mlflow_port}"

    @property
    def prefect_url(self) -> str:
        """The address of Prefect's pages; its API is at ``/api``."""
        return f"http://{self.authority}:{self.prefect_port}"

    def database(self, name: str, driver: str) -> str:
        """Return the address of a database for SQLAlchemy, password included."""
        return f"postgresql+{driver}://dae:{self.postgres_password}@{LOOPBACK}:{self.postgres_port}/{name}"

    def ports(self) -> dict[str, int]:
        """Return the port of each service that has one."""
        return {"postgres": self.postgres_port, "mlflow": self.mlflow_port, "prefect": self.prefect_port}


def path() -> Path:
    """Return the path of ``.env``, which may not exist yet."""
    return storage.project_home() / ".env"


def without_secrets() -> ServiceSettings:
    """Return settings with only the folder: enough to stop the services when ``.env`` is lost."""
    folder = os.environ.get(f"{PREFIX}SERVICES_FOLDER") or ServiceSettings.model_fields["services_folder"].default
    return ServiceSettings.model_construct(services_folder=Path(folder))


def load() -> ServiceSettings:
    """Read ``.env`` and the environment, which takes precedence.

    Raises
    ------
    ConfigError
        If a value breaks a rule, two services have the same port, or ``.env`` does not exist. No secret is shown.
    """
    try:
        settings = ServiceSettings(_env_file=path())
    except ValidationError as error:
        lines = [f"{PREFIX}{str(problem['loc'][0]).upper()}: {problem['msg']}" for problem in error.errors()]
        rule = "" if path().exists() else f"; {command_lines.make_command('services')} writes it"
        raise ConfigError("\n".join([f"{path()} or the environment{rule}:", *lines])) from None
    if len(set(settings.ports().values())) < len(settings.ports()):
        ports = ", ".join(f"{name} {port}" for name, port in settings.ports().items())
        raise ConfigError(f"the ports of the services must differ from one another, received {ports}")
    if "%" in str(settings.folder):  # supervisord would expand it as a placeholder
        raise ConfigError(f"{PREFIX}SERVICES_FOLDER must be a path without %, received {settings.folder}")
    if len(os.fsencode(settings.socket)) > SOCKET_PATH:
        raise ConfigError(
            f"{PREFIX}SERVICES_FOLDER must be a shorter path: {settings.socket} is over {SOCKET_PATH} bytes long"
        )
    return settings


def text(settings: ServiceSettings) -> str:
    """Return ``.env`` with the secrets in use, which may come from the environment; all settings if there is no ``.env``."""
    values = {f"{PREFIX}{name.upper()}": str(value) for name, value in settings.model_dump().items()}
    if not path().exists():
        return "".join(f"{name}={value}\n" for name, value in values.items())
    written = path().read_text(encoding="utf-8")
    for name in (name for name in values if name.endswith(SECRETS)):
        line = f"{name}={values[name]}"
        written, count = re.subn(rf"^{name}=.*$", line, written, flags=re.MULTILINE)
        written += "" if count else f"{line}\n"
    return written


def load_or_make() -> ServiceSettings:
    """Read ``.env``. If it does not exist, create it first from ``.env.example``, with a new password for each empty one.

    Raises
    ------
    ConfigError
        As `load` does, or if there is no ``.env.example``.
    """
    if not path().exists():
        if (cluster := without_secrets().folder / CLUSTER / "PG_VERSION").exists():
            raise ConfigError(
                f"{path()} must be there: {cluster.parent} was made with its passwords; put it back, or take it out of a backup"
            )
        if not EXAMPLE.exists():
            raise ConfigError(
                f"{EXAMPLE} must be there to make {path()} of: the services run from a checkout of the project"
            )
        text = re.sub(
            rf"^(\w+(?:{'|'.join(SECRETS)}))=$",
            lambda line: f"{line[1]}={secrets.token_urlsafe(24)}",
            EXAMPLE.read_text(encoding="utf-8"),
            flags=re.MULTILINE,
        )
        with suppress(FileExistsError):  # another process was first, and its passwords are used
            write_private(path(), text.partition("\n\n")[2], overwrite=False)
    return load()


def write_private(file: Path, text: str, *, overwrite: bool = True) -> None:
    """Write a text file atomically that only its owner can read.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is False.
    """
    with storage.atomic_write(file, overwrite=overwrite) as draft:
        draft.touch(mode=0o600)
        draft.write_text(text, encoding="utf-8")
