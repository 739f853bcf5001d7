"""A stand-in for what moto lacks of ECS: tasks that really run, on the local engine.

```python
with EcsAgent(DockerHost(), lambda: None, name="it") as agent:
    ecs.create_service(cluster="it", serviceName="hello", taskDefinition="hello", desiredCount=2)
    url = agent.address("it", "hello")
```
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self

from moto.ecs.models import Service
from prefect_docker.host import DockerHost

from tests.aws.balancer import Balancer
from tests.aws.deployments import ManagedService
from tests.aws.engine import Credentials, TaskEngine
from tests.aws.formation import formed_by
from tests.aws.operations import answered_by
from tests.aws.run_tasks import StandaloneTasks
from tests.aws.service_tasks import Workshop

_PAUSE_SECONDS = 0.1
_MOST_WORKERS = 16
_SETTLE_SECONDS = 1.0


class EcsAgent:
    """Runs what moto's ECS is told to run, in this process, for as long as the block lasts."""

    def __init__(
        self,
        docker_host: DockerHost,
        pull_credentials: Credentials,
        *,
        name: str,
        speed: float = 10,
        minute_seconds: float = 1,
    ) -> None:
        """`name` begins the name of all that is made on the engine, and is that of its network.

        Health checks come `speed` times as often as the task definition says. A task without one
        runs well after a second. A minute of bake time lasts `minute_seconds`.
        """
        self._host, self._credentials, self.name = docker_host, pull_credentials, name
        self._speed, self._minute = speed, minute_seconds
        self.lock = threading.RLock()
        self.services: dict[str, ManagedService] = {}
        self._balancers: dict[str, Balancer] = {}
        self._held: set[str] = set()
        self._ended = threading.Event()
        self._fault: Exception | None = None

    def __enter__(self) -> Self:
        with ExitStack() as made:
            client = made.enter_context(self._host.get_client())
            # Its threads would read the environment, which pytest writes to meanwhile.
            client.api.trust_env = False
            self._engine = TaskEngine(client, self._credentials, self.name, self._speed)
            made.callback(self._engine.clean)
            self._engine.open()
            pool = made.enter_context(ThreadPoolExecutor(_MOST_WORKERS, "ecs-task"))
            self.standalone = StandaloneTasks(self._engine, pool)
            self._shop = Workshop(self._engine, pool, self._held, _SETTLE_SECONDS, self._minute)
            made.callback(self._stop_all)
            thread = threading.Thread(target=self._work, name="ecs-agent")
            thread.start()
            made.callback(thread.join)
            made.callback(self._ended.set)
            made.enter_context(answered_by(self))
            made.enter_context(formed_by(self))
            self._made = made.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._made.__exit__(*error)
        if self._fault and error[0] is None:
            raise self._fault

    def hold(self, service: str) -> None:
        """Start no task for deployments of this service, so that they stay in progress."""
        with self.lock:
            self._held.add(service)

    def release(self, service: str) -> None:
        """Let the deployments of this service go on."""
        with self.lock:
            self._held.discard(service)

    def address(self, cluster: str, service: str) -> str:
        """URL of the load balancer of a service, without a slash at the end.

        It listens as long as the agent runs. Raises KeyError where there is no such service.
        """
        end = (
            f":service/{cluster.rsplit('/', maxsplit=1)[-1]}/{service.rsplit('/', maxsplit=1)[-1]}"
        )
        with self.lock:
            arn = next((arn for arn in self.services if arn.endswith(end)), None)
            if arn is None:
                raise KeyError(f"there is no service {service} in the cluster {cluster}")
            if arn not in self._balancers:
                balancer = Balancer(self.services[arn].targeting)
                self._balancers[arn] = self._made.enter_context(balancer)
            return self._balancers[arn].url

    def adopt(self, service: Service, settings: dict[str, Any] | None) -> ManagedService:
        """Run a service that was created."""
        before = self.services.get(service.arn)
        managed = ManagedService(self._shop, service, settings)
        if before:
            # Its load balancer, and the tasks that have yet to end, stay.
            managed.targeting, managed.tasks = before.targeting, list(before.tasks)
        self.services[service.arn] = managed
        return managed

    def _work(self) -> None:
        while not self._ended.wait(_PAUSE_SECONDS):
            for name, tasks in [*self.services.items(), ("tasks of no service", self.standalone)]:
                try:
                    with self.lock:
                        tasks.reconcile()
                except Exception as error:
                    logging.getLogger(__name__).exception("%s", name)
                    self._fault = self._fault or error

    def _stop_all(self) -> None:
        self._engine.hurry()
        with self.lock:
            for service in self.services.values():
                service.delete()
