"""What a stopped or killed worker of this host leaves: containers, and runs that seem to go on.

Prefect's process worker kills its runs when it is stopped, and nobody tells the server; a worker
that is killed leaves them Running for ever.
"""

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed

from blocks.engine import DockerHost, Engine
from blocks.prefect_api import prefect_api, read_unfinished_runs
from deployments.settings import SystemSettings


async def end_leftovers(settings: SystemSettings) -> None:
    """End what is left, while no worker runs: `up` is one host, and its worker the only one."""
    with Engine(DockerHost()) as engine:
        labels = {"samebits.role": "test", "samebits.system": settings.name}
        for container in engine.containers(labels):
            engine.remove(container.id)
    async with prefect_api() as client:
        for run in await read_unfinished_runs(client):
            await _end(client, run)


async def _end(client: PrefectClient, run: FlowRun) -> None:
    if run.state and run.state.type == StateType.CANCELLING:
        state: State[None] = Cancelled(message="It was being cancelled as the system stopped.")
    else:
        state = Crashed(message="The system was stopped while this run was going on. Retry it.")
    await client.set_flow_run_state(run.id, state, force=True)
