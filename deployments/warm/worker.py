"""A Prefect worker type: each run in a process of its own, forked from a warm parent."""

import asyncio
import logging
import os
import socket
import tempfile
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import anyio.abc
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, ServerDefaultResultStorage
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.flows import load_flow_from_flow_run
from prefect.runner._process_manager import ProcessHandle
from prefect.states import Pending
from prefect.workers.base import BaseWorker, BaseWorkerResult
from prefect.workers.process import ProcessVariables

from deployments.warm.configuration import WarmConfiguration
from deployments.warm.forking import Parent
from deployments.warm.installed import fingerprint
from deployments.warm.keeping import kept_for
from deployments.warm.known import Known, known
from deployments.warm.patience import Patience
from deployments.warm.starting import ForkStarter
from deployments.warm.waking import hear_of_scheduled_runs
from deployments.warm.watch import Watch
from domain.errors import SamebitsError
from domain.names import one_line
from domain.routing import repository_of
from domain.turns import take_turns

_WRITTEN_SECONDS = 0.1
_WAITING_SECONDS = 2.0
"""How long it takes what it has found for waiting still. To find out costs Prefect's server 40 ms,
and more where many wait, as after a burst of pushes; one that was cancelled meanwhile is refused"""
_BEGUN_SECONDS = 2.0
"""After so long a run is at work, or hangs before it could write down its process"""
_RUN_SECONDS, _POOL_SECONDS, _FLOW_SECONDS = 1.0, 60.0, 600.0
"""How long it is taken for known what a deployment is, what a queue is and where results are kept,
and how a flow is called"""
log = logging.getLogger("samebits.worker")
_SECOND_REPORT = "Flow run infrastructure exited with non-zero status code"


class WarmResult(BaseWorkerResult):
    """How the process of a run ended."""


class WarmWorker(BaseWorker[WarmConfiguration, ProcessVariables, WarmResult]):
    """Runs each flow run in a process of its own, forked from a parent with everything loaded.

    It looks for runs when Prefect tells of one, when one of its own has ended for whose place
    another may wait, and, for safety, at Prefect's interval (PREFECT_WORKER_QUERY_SECONDS).
    """

    type = "warm"
    job_configuration = WarmConfiguration
    job_configuration_variables = ProcessVariables
    _description = "Runs each flow run in a process of its own, forked from a warm parent."
    _display_name = "Samebits: warm process"

    def __init__(self, *args: Any, limit: int | None = None, **kwargs: Any) -> None:
        # Prefect 3.8's own limit ends the worker when a run is retried before its last process has
        # ended ("this borrower is already holding one of this CapacityLimiter's tokens").
        super().__init__(*args, **kwargs)
        self._most = limit or os.cpu_count() or 1
        self._going: dict[UUID, str] = {}
        """The repository of each run that this worker has taken"""
        self._at_work: dict[UUID, str] = {}
        """The process of each of them that has, or had, one; empty before it has"""
        self._turns: dict[str, int] = {}
        self._waiting: list[WorkerFlowRunResponse] = []
        """What it has found, and had no place for"""
        self._waiting_until, self._news, self._seen_news = 0.0, 0, 0
        self._may_be_more = True
        """Whether a run may wait for the end of one that it has taken"""
        self._woken = asyncio.Event()
        self._aside: set[asyncio.Task[Any]] = set()
        self._one_look = asyncio.Lock()
        self._patience = Patience()
        self._watch = Watch()
        self._parent: Parent | None = None
        self._installed = ""
        self._one_start = asyncio.Lock()

    # -- looking for runs ---------------------------------------------------------------------

    async def start(self, *args: Any, **kwargs: Any) -> None:
        """Work until cancelled."""
        waking = [
            asyncio.create_task(hear_of_scheduled_runs(self._hear)),
            asyncio.create_task(self._look_when_woken()),
            asyncio.create_task(self._warm_up()),
        ]
        try:
            await super().start(*args, **kwargs)
        finally:
            for task in waking:
                task.cancel()

    def _hear(self, deployment: UUID | None = None) -> None:
        """There is a run to start: look for it, and meanwhile read what it is of."""
        self._waiting, self._news = [], self._news + 1
        self._woken.set()
        if deployment and self.is_setup and len(self._going) < self._most:
            self._do_aside(self.client.read_deployment(deployment))

    def _do_aside(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let it be done meanwhile; whoever needs it done sees to that."""
        task = asyncio.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._aside.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.warning("not done aside: %s", one_line(f"{type(error).__name__}: {error}"))

    async def _look_when_woken(self) -> None:
        # Prefect tells of a run just before it is written down: after news that nothing came of, it
        # is looked for once more.
        settled, once_more = 0, None
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    self._woken.wait(), None if once_more is None else _WRITTEN_SECONDS
                )
            self._woken.clear()
            news, taken = self._news, list[FlowRun]()
            try:
                taken = await self.get_and_submit_flow_runs()
            except Exception as error:  # noqa: BLE001 - Prefect's own loop meets it too, and decides
                log.warning("no run was taken: %s", one_line(f"{type(error).__name__}: {error}"))
            settled = news if taken or news == once_more else settled
            once_more = None if news == settled else news

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Take what there is to run, as far as there is room."""
        async with self._one_look:
            self._may_be_more = True  # as long as the answer does not say otherwise
            if len(self._going) >= self._most or not self.is_setup:
                return []
            now = asyncio.get_running_loop().time()
            if self._waiting and now < self._waiting_until:
                return await self._submit_scheduled_flow_runs(self._waiting)
            self._waiting_until, self._seen_news = now + _WAITING_SECONDS, self._news
            return await self._patience(super().get_and_submit_flow_runs, [])

    async def sync_with_backend(self) -> None:
        """Say that this worker lives."""
        await self._patience(super().sync_with_backend, None)

    async def _submit_scheduled_flow_runs(
        self, flow_run_response: list[WorkerFlowRunResponse]
    ) -> list[FlowRun]:
        # One that is retried at once waits for the end of its last process.
        waiting = [one for one in flow_run_response if one.flow_run.id not in self._going]
        order = take_turns(
            [(_repository(one.flow_run), one) for one in waiting], self._going.values(), self._turns
        )
        taken = order[: self._most - len(self._going)]
        for one in taken:
            repository = _repository(one.flow_run)
            self._going[one.flow_run.id] = repository
            self._turns[repository] = max(self._turns.values(), default=0) + 1
        rest = order[len(taken) :]
        limited = await self._is_limited(order)
        self._may_be_more = limited or len(taken) < len(flow_run_response)
        # Of a run that came after it had asked it knows nothing.
        self._waiting = [] if limited or self._news != self._seen_news else rest
        return await super()._submit_scheduled_flow_runs(taken)

    async def _is_limited(self, runs: list[WorkerFlowRunResponse]) -> bool:
        """Whether Prefect, which then has to be asked, lets only some of these go on at once."""
        ids = {one.flow_run.work_queue_id for one in runs}
        queues = [await self.client.read_work_queue(queue) for queue in ids if queue]
        limits = [self.work_pool.concurrency_limit, *(queue.concurrency_limit for queue in queues)]
        return any(limit is not None for limit in limits)

    async def _submit_run(self, flow_run: FlowRun) -> None:
        try:
            await super()._submit_run(flow_run)
        finally:  # Prefect forgets to where the deployment is gone
            if flow_run.id not in self._at_work:
                self._release_limit_slot(flow_run.id)

    def _release_limit_slot(self, flow_run_id: UUID) -> None:
        self._going.pop(flow_run_id, None)
        # One that could not be started is looked at again by Prefect's interval, not at once.
        if flow_run_id in self._at_work:
            del self._at_work[flow_run_id]
            if self._may_be_more:  # else Prefect would be asked just when the end is to be told
                self._woken.set()

    # -- running them -------------------------------------------------------------------------

    async def setup(self) -> None:
        """Prepare to work."""
        await super().setup()
        client = self.client
        client.read_deployment = kept_for(_RUN_SECONDS, client.read_deployment)  # type: ignore[method-assign, assignment]
        client.read_flow = kept_for(_FLOW_SECONDS, client.read_flow)  # type: ignore[method-assign, assignment]
        client.read_work_queue = kept_for(_POOL_SECONDS, client.read_work_queue)  # type: ignore[method-assign, assignment]
        self._read_storage = kept_for(_POOL_SECONDS, _storage_of)
        self._update_run, client.update_flow_run = client.update_flow_run, self._note_process  # type: ignore[method-assign, assignment]

    async def teardown(self, *exc_info: Any) -> None:
        """End, once the runs have."""
        self._watch.leave()
        await super().teardown(*exc_info)
        if self._parent and self._parent.alive:
            self._parent.leave()

    async def run(
        self,
        flow_run: FlowRun,
        configuration: WarmConfiguration,
        task_status: anyio.abc.TaskStatus[Any] | None = None,
    ) -> WarmResult:
        """Run a flow run to the end of its process."""
        self._at_work[flow_run.id] = ""
        status = task_status or anyio.TASK_STATUS_IGNORED
        ended: WarmResult | None = None
        if self._runs_task_group is None:
            raise RuntimeError("The worker was not set up.")
        async with self._watch.over_runs(self._runs_task_group) as context:
            with _folder(configuration) as folder:
                starter = ForkStarter(
                    await self._warm(),
                    configuration.env | await self._entrypoint(flow_run),
                    Path(folder),
                    context.control_channel,
                    {"taken_by": self._here()} | await self._known(flow_run),
                )
                executor = context.create_executor(
                    flow_run,
                    starter,
                    resolve_flow=load_flow_from_flow_run,
                    propose_submitting=False,
                )

                async def execute(
                    *, task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED
                ) -> None:
                    nonlocal ended
                    done = await executor.submit(task_status=task_status)
                    if done and done.status_code is not None:
                        ended = WarmResult(
                            status_code=done.status_code, identifier=str(done.handle.pid)
                        )

                async with anyio.create_task_group() as group:
                    handle = await group.start(execute)
                    process = self._at_work[flow_run.id] = f"{self._here()}:{handle.pid}"
                    status.started(process)
        if ended is None:
            raise RuntimeError("The process of the run was not started.")
        return ended

    async def _entrypoint(self, flow_run: FlowRun) -> dict[str, str | None]:
        """Where the flow is, if it is in a module that is loaded: the run need not ask for it."""
        if not flow_run.deployment_id:
            return {}
        deployment = await self.client.read_deployment(flow_run.deployment_id)
        if deployment.pull_steps or ":" in (deployment.entrypoint or ":"):
            return {}
        return {"PREFECT__FLOW_ENTRYPOINT": deployment.entrypoint}

    def _here(self) -> str:
        """Where the processes of its runs are, as far as all of these have it in common."""
        return f"{self.name}@{socket.gethostname()}"

    async def _note_process(self, flow_run_id: UUID, infrastructure_pid: str) -> None:
        """Prefect's worker writes down a run's process. The run itself does so, as it begins; here
        it is done, a while later, for one that hangs before.
        """

        async def note() -> None:
            await asyncio.sleep(_BEGUN_SECONDS)
            if self._at_work.get(flow_run_id) == infrastructure_pid:
                await self._update_run(flow_run_id, infrastructure_pid=infrastructure_pid)

        self._do_aside(note())

    async def _known(self, flow_run: FlowRun) -> Known:
        """What this worker knows of a run that comes by a deployment and a queue."""
        if not flow_run.deployment_id or not flow_run.work_queue_id:
            return {}
        storage, flow, deployment, queue = await asyncio.gather(
            self._read_storage(self.client),
            self.client.read_flow(flow_run.flow_id),
            self.client.read_deployment(flow_run.deployment_id),
            self.client.read_work_queue(flow_run.work_queue_id),
        )
        related = {
            "flow": flow,
            "deployment": deployment,
            "work-queue": queue,
            "work-pool": self.work_pool,
        }
        keys = {
            "flow": flow_run.flow_id,
            "deployment": flow_run.deployment_id,
            "work-queue": flow_run.work_queue_id,
            "work-pool": self.work_pool.name,
        }
        run = flow_run.model_copy(update={"state": Pending()})
        return known(run, storage.default_result_storage_block_id, related, keys)

    async def _warm(self) -> Parent:
        """A parent that has loaded the code as it is installed now."""
        async with self._one_start:
            installed = await asyncio.to_thread(fingerprint)
            if self._parent is None or not self._parent.alive or installed != self._installed:
                if self._parent and self._parent.alive:
                    self._parent.leave()
                self._parent, self._installed = await Parent.start(), installed
            return self._parent

    async def _warm_up(self) -> None:
        """Have it ready before the first run."""
        with suppress(SamebitsError):  # the first run says what is wrong
            await self._warm()

    # -- what costs a run time, and nobody needs ----------------------------------------------

    async def _give_worker_labels_to_flow_run(self, flow_run_id: UUID) -> None:
        """The run writes down who has taken it, with its process."""

    async def _propose_submitting_state(self, flow_run: FlowRun) -> None:
        """A fork is nothing to wait for: the run goes on from Pending."""

    def _emit_flow_run_submitted_event(self, configuration: WarmConfiguration) -> None:  # type: ignore[override]
        """The states of the run tell as much."""

    async def _propose_crashed_state(
        self, flow_run: FlowRun, message: str, client: PrefectClient | None = None
    ) -> None:
        # Prefect's executor reports a process that died; its worker does so again, up to 1 s later,
        # and would end a retry that was quick.
        if not message.startswith(_SECOND_REPORT):
            await super()._propose_crashed_state(flow_run, message, client)


async def _storage_of(client: PrefectClient) -> ServerDefaultResultStorage:
    return await client.read_server_default_result_storage()


def _repository(run: FlowRun) -> str:
    return repository_of(run.parameters)


def _folder(configuration: WarmConfiguration) -> AbstractContextManager[str | Path]:
    if configuration.working_dir:
        return nullcontext(configuration.working_dir)
    return tempfile.TemporaryDirectory(prefix="samebits-run-")
