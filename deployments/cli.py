"""The command `samebits`."""

import asyncio
import sys
from typing import Annotated

import typer

from deployments.settings import read_settings
from domain.errors import SamebitsError

app = typer.Typer(
    help="Self-hosted CI/CD on Prefect: the bits that were tested are the bits that run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def up() -> None:
    """Run the whole system in the foreground; Ctrl-C stops what it started."""
    from deployments.system import System
    from deployments.up import stay_up

    settings = read_settings()
    with System(settings, typer.echo).running() as system:
        stay_up(system)


@app.command()
def demo() -> None:
    """Run the main job once, end to end, and check that all of it held."""
    from deployments.demo import run_demo

    held = run_demo(read_settings())
    print("`make up` starts the system again, with these runs.")
    if not held:
        sys.exit(1)


@app.command()
def apply() -> None:
    """Apply prefect.yaml to the running system, after a change of it."""
    from prefect.settings import temporary_settings

    from deployments.environment import client_settings
    from deployments.provisioning import apply_deployments

    settings = read_settings()
    with temporary_settings(client_settings(settings)):
        asyncio.run(apply_deployments(settings))
    typer.echo("prefect.yaml is applied.")


@app.command()
def doctor(
    limit: Annotated[float, typer.Option(min=1, help="Seconds that each check may take.")] = 10,
) -> None:
    """Check everything that a run needs, and say what to do about what is wrong."""
    from deployments.doctor import run_doctor

    if not run_doctor(read_settings(), limit, typer.echo):
        sys.exit(1)


@app.command()
def deliveries(
    count: Annotated[int, typer.Option(min=1, help="How many of the last ones.")] = 20,
) -> None:
    """Show the last deliveries of GitHub, and what became of each."""
    from deployments.commands import say_deliveries

    say_deliveries(read_settings(), count, typer.echo)


@app.command()
def redeploy(
    repository: Annotated[str, typer.Argument(help="Repository, e.g. hello-service.")],
    stack: Annotated[str, typer.Argument(help="Stack to put it on, e.g. prod.")],
    image: Annotated[str, typer.Argument(help="Full SHA of a published commit, or a digest.")],
    reason: Annotated[
        str, typer.Option(help="Why, for those who read it later; needed to go back.")
    ] = "",
) -> None:
    """Put a published image on a stack again, and wait until it serves."""
    from prefect.settings import temporary_settings

    from deployments.commands import redeploy as run
    from deployments.environment import client_settings

    with temporary_settings(client_settings(read_settings())):
        if not asyncio.run(run(repository, stack, image, reason, typer.echo)):
            sys.exit(1)


@app.command()
def prune() -> None:
    """Remove now what no stack and no recent run needs, and say what went."""
    from prefect.settings import temporary_settings

    from deployments.commands import prune as run
    from deployments.environment import client_settings

    with temporary_settings(client_settings(read_settings())):
        if not asyncio.run(run(typer.echo)):
            sys.exit(1)


@app.command()
def receive() -> None:
    """Run the receiver, and what starts, ends and tells of runs; needs PREFECT_API_URL."""
    from deployments.service import serve

    serve(read_settings())


@app.command()
def work(
    name: Annotated[str, typer.Option(help="Name of this worker, if there are several.")] = "",
    *,
    restart: Annotated[
        bool, typer.Option(help="Have the runs go on that a worker of this name left as it died.")
    ] = True,
) -> None:
    """Run a worker; needs PREFECT_API_URL and a Docker engine."""
    from deployments.worker import work as run

    run(read_settings(), name, restart=restart)


def main() -> None:
    """Run a command; an error of ours is a message, never a traceback."""
    try:
        app()
    except SamebitsError as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
