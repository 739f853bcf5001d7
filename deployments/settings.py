"""Settings of the system on one host: environment variables that begin with SAMEBITS_."""

import os
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from blocks.home import KEEP_DAYS, LEAST_FREE_MIB, data_home
from domain.errors import BadInput, explained


def read_settings() -> "SystemSettings":
    """The settings of the environment. Raises BadInput for one that is wrong."""
    try:
        return SystemSettings()
    except ValidationError as error:
        raise BadInput(
            "A setting in the environment is wrong.",
            why="; ".join(f"SAMEBITS_{line}" for line in map(_upper, explained(error))),
            hint="docs/configuration.md says what each takes.",
        ) from None


def _upper(line: str) -> str:
    field, _, said = line.partition(": ")
    return f"{field.upper()}: {said}"


class SystemSettings(BaseSettings):
    """Where the system keeps its files and listens; the defaults need no change."""

    model_config = SettingsConfigDict(env_prefix="SAMEBITS_", frozen=True)

    home: Path = Field(default_factory=data_home, description="Folder of everything that is kept")
    name: str = Field(
        default="samebits",
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        description="Begins the name of each container; two systems on one engine differ in it",
    )
    prefect_port: int = Field(default=4200, description="Port of the Prefect server and its UI")
    receiver_port: int = Field(default=4280, description="Port of the receiver of deliveries")
    receiver_host: str = Field(
        default="127.0.0.1",
        description="Address that the receiver listens on; another one in a container of its own",
    )
    registry_port: int = Field(default=4250, description="Port of the embedded registry")
    stage_port: int = Field(default=8081, description="Port of the example's stack stage")
    prod_port: int = Field(default=8082, description="Port of the example's stack prod")
    runs_at_once: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="Most runs of a worker at a time; without a number, one for each core",
    )
    reconcile_seconds: float = Field(
        default=180, gt=0, description="How often the branches' heads are asked of git itself"
    )
    keep_days: float = Field(
        default=KEEP_DAYS,
        gt=0,
        description="How long deliveries, and images of ended runs, are kept",
    )
    restarts: int = Field(
        default=2, ge=0, description="How often a run that a power cut ended is started again"
    )
    least_free_mib: int = Field(
        default=LEAST_FREE_MIB, ge=0, description="Free space in MiB below which no build starts"
    )

    @property
    def api_url(self) -> str:
        """Prefect's API."""
        return f"http://127.0.0.1:{self.prefect_port}/api"

    @property
    def ui_url(self) -> str:
        """Prefect's UI."""
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def receiver_url(self) -> str:
        """Where GitHub's webhooks go."""
        return f"http://127.0.0.1:{self.receiver_port}/github"

    @property
    def inbox(self) -> Path:
        """The database of deliveries and of what was told."""
        return self.home / "inbox.sqlite"

    @property
    def channel_file(self) -> Path:
        """What the local twin of the channel writes."""
        return self.home / "channel.jsonl"
