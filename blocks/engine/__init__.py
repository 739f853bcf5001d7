"""The room of the Docker engine: the only place that imports the Docker SDK."""

from prefect_docker.host import DockerHost

from blocks.engine.connection import About
from blocks.engine.containers import Container, Service
from blocks.engine.engine import Engine
from blocks.engine.sandbox import Limits, RunResult

__all__ = ["About", "Container", "DockerHost", "Engine", "Limits", "RunResult", "Service"]
