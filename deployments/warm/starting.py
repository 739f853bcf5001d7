"""Starts a run's process by a fork, as Prefect's executor wants it started."""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import anyio.abc
from prefect.client.schemas.objects import FlowRun
from prefect.runner._control_channel import ControlChannel
from prefect.runner._process_manager import ProcessHandle

from blocks.process import WORKER_PID
from deployments.warm.forking import Parent
from deployments.warm.known import Known


class ForkStarter:
    """Prefect's ProcessStarter, for one run."""

    def __init__(
        self,
        parent: Parent,
        environment: Mapping[str, str | None],
        folder: Path,
        channel: ControlChannel,
        known: Known,
    ) -> None:
        self._parent, self._environment, self._known = parent, environment, known
        self._folder, self._channel = folder, channel

    async def start(
        self,
        flow_run: FlowRun,
        task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Return once the process has ended; where this is cancelled, it is killed."""
        port, token = self._channel.register(flow_run.id)
        given = {name: value for name, value in self._environment.items() if value is not None}
        own = {
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
            "PREFECT__CONTROL_PORT": str(port),
            "PREFECT__CONTROL_TOKEN": token,
            WORKER_PID: str(os.getpid()),
        }
        forked = await self._parent.fork(str(flow_run.id), given | own, self._folder, self._known)
        task_status.started(ProcessHandle(forked))  # type: ignore[arg-type]
        try:
            await forked.ended.wait()
        finally:
            if forked.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(forked.pid, signal.SIGKILL)
