"""The stand-in's ECS: real tasks on a real engine, asked as a deployer asks."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import WaiterError
from moto.server import ThreadedMotoServer

from blocks.engine import DockerHost, Engine
from deployments.demo_watch import Load
from tests.aws.agent import EcsAgent
from tests.aws.engine import LABEL
from tests.conftest import Origin, RunningRegistry, unique
from tests.services import published
from tests.waiting import wait_until

pytestmark = pytest.mark.engine

CHECK = "wget -q -O /dev/null http://127.0.0.1:8000/health"
# On a busy machine a service takes its time: until then nothing is counted.
HEALTH = {"command": ["CMD-SHELL", CHECK], "interval": 5, "retries": 3, "startPeriod": 200}
BREAKER = {"deploymentCircuitBreaker": {"enable": True, "rollback": True}}
NO_ROLLBACK = {"deploymentCircuitBreaker": {"enable": True, "rollback": False}}
FINAL = ("SUCCESSFUL", "STOPPED", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED")


@dataclass(frozen=True)
class Images:
    """References by digest: two versions that run, and one that exits."""

    one: str
    two: str
    crashing: str


@pytest.fixture(scope="module")
def images(
    docker_host: DockerHost,
    running_registry: RunningRegistry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Images]:
    folder = tmp_path_factory.mktemp("agent")
    with ExitStack() as made:
        made.enter_context(pytest.MonkeyPatch.context()).setenv("SAMEBITS_HOME", str(folder))
        engine, origin = made.enter_context(Engine(docker_host)), Origin(folder)
        yield Images(
            *(
                made.enter_context(
                    published(engine, running_registry.block, origin, version, needs)
                ).reference
                for version, needs in (("one", ""), ("two", ""), ("three", "TOKEN"))
            )
        )


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@pytest.fixture(scope="module")
def agent(docker_host: DockerHost, images: Images, moto: str, name: str) -> Iterator[EcsAgent]:
    with EcsAgent(docker_host, lambda: None, name=f"{name}-ecs", speed=20) as running:
        yield running


def client(moto: str, service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=moto,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="y",
        config=Config(retries={"total_max_attempts": 1}),
    )


class Cluster:
    """A cluster, and one service of a test's own in it."""

    def __init__(self, moto: str, agent: EcsAgent) -> None:
        self.ecs, self.agent = client(moto, "ecs"), agent
        self.ecs.create_cluster(clusterName="it")
        self.name = f"hello-{unique()[:8]}"

    def define(self, image: str, *others: dict[str, Any], **more: Any) -> str:
        container = {
            "name": "web",
            "image": image,
            "memory": 64,
            "portMappings": [{"containerPort": 8000}],
            "healthCheck": HEALTH,
        }
        return self.ecs.register_task_definition(
            family=self.name, containerDefinitions=[{**container, **more}, *others]
        )["taskDefinition"]["taskDefinitionArn"]

    def create(self, definition: str, desired: int = 1, **more: Any) -> dict[str, Any]:
        return self.ecs.create_service(
            cluster="it",
            serviceName=self.name,
            taskDefinition=definition,
            desiredCount=desired,
            launchType="FARGATE",
            **more,
        )["service"]

    def run(self, definition: str, **overrides: Any) -> str:
        """Run a task of no service; returns its ARN."""
        answer = self.ecs.run_task(
            cluster="it", taskDefinition=definition, launchType="EC2", overrides=overrides
        )
        return answer["tasks"][0]["taskArn"]

    def task(self, arn: str) -> dict[str, Any]:
        return self.ecs.describe_tasks(cluster="it", tasks=[arn])["tasks"][0]

    def update(self, definition: str, **more: Any) -> dict[str, Any]:
        return self.ecs.update_service(
            cluster="it", service=self.name, taskDefinition=definition, **more
        )["service"]

    def service(self) -> dict[str, Any]:
        return self.ecs.describe_services(cluster="it", services=[self.name])["services"][0]

    def events(self) -> str:
        """What the service tells, newest first."""
        return "\n".join(event["message"] for event in self.service()["events"])

    def deployments(self, **more: Any) -> list[dict[str, Any]]:
        return self.ecs.list_service_deployments(cluster="it", service=self.name, **more)[
            "serviceDeployments"
        ]

    def deployment(self, number: int = 0) -> dict[str, Any]:
        """A service deployment, whole; 0 is the newest."""
        arn = self.deployments()[number]["serviceDeploymentArn"]
        found = self.ecs.describe_service_deployments(serviceDeploymentArns=[arn])
        assert found["failures"] == []
        return found["serviceDeployments"][0]

    def ended(self, number: int = 0, seconds: float = 20) -> dict[str, Any]:
        wait_until(
            lambda: self.deployment(number)["status"] in FINAL,
            seconds,
            f"the end of {self.deployment(number)}, after {self.events()}",
        )
        return self.deployment(number)

    def tasks(self, status: str = "RUNNING") -> list[dict[str, Any]]:
        arns = self.ecs.list_tasks(cluster="it", serviceName=self.name, desiredStatus=status)
        if not arns["taskArns"]:
            return []
        return self.ecs.describe_tasks(cluster="it", tasks=arns["taskArns"])["tasks"]

    def url(self) -> str:
        return self.agent.address("it", self.name)

    def said(self) -> str:
        return httpx.get(self.url(), timeout=5).text

    def stable(self) -> bool:
        """What boto3's waiter says at once."""
        try:
            self.ecs.get_waiter("services_stable").wait(
                cluster="it", services=[self.name], WaiterConfig={"Delay": 0, "MaxAttempts": 1}
            )
        except WaiterError:
            return False
        return True

    def remove(self) -> None:
        self.agent.release(self.name)
        if any(one["status"] == "ACTIVE" for one in self._found()):
            self.ecs.delete_service(cluster="it", service=self.name, force=True)

    def _found(self) -> list[dict[str, Any]]:
        return self.ecs.describe_services(cluster="it", services=[self.name])["services"]


@pytest.fixture
def cluster(moto: str, agent: EcsAgent) -> Iterator[Cluster]:
    made = Cluster(moto, agent)
    yield made
    made.remove()


def digest(image: str) -> str:
    return image.partition("@")[2]


def test_a_good_deployment_runs_what_was_asked_and_tells_so(
    cluster: Cluster, images: Images
) -> None:
    arn = cluster.define(images.one)
    assert cluster.create(arn, 2)["deployments"][0]["rolloutState"] == "IN_PROGRESS"
    done = cluster.ended()
    assert done["status"] == "SUCCESSFUL"
    assert done["targetServiceRevision"]["runningTaskCount"] == 2
    service, tasks = cluster.service(), cluster.tasks()
    assert (service["runningCount"], service["pendingCount"]) == (2, 0)
    assert service["deployments"][0]["rolloutState"] == "COMPLETED"
    assert {task["startedBy"] for task in tasks} == {service["deployments"][0]["id"]}
    for task in tasks:
        assert (task["lastStatus"], task["healthStatus"]) == ("RUNNING", "HEALTHY")
        assert task["taskDefinitionArn"] == arn
        assert task["containers"][0]["imageDigest"] == digest(images.one)
    assert f"(service {cluster.name}) has started 2 tasks: (task " in cluster.events()
    assert cluster.events().startswith(f"(service {cluster.name}) has reached a steady state.")
    revisions = [done["targetServiceRevision"]["arn"]]
    found = cluster.ecs.describe_service_revisions(serviceRevisionArns=revisions)
    assert found["serviceRevisions"][0]["taskDefinition"] == arn
    assert "version one" in cluster.said()


def test_a_service_of_no_tasks_is_deployed_at_once_and_does_not_serve(
    cluster: Cluster, images: Images
) -> None:
    cluster.create(cluster.define(images.one), 0)
    assert cluster.ended()["status"] == "SUCCESSFUL"
    assert httpx.get(cluster.url()).status_code == 503
    assert cluster.tasks() == []


def test_the_same_task_definition_makes_a_deployment_only_when_it_is_forced(
    cluster: Cluster, images: Images
) -> None:
    arn = cluster.define(images.one)
    cluster.create(arn)
    cluster.ended()
    before = cluster.tasks()[0]["taskArn"]
    cluster.update(arn, desiredCount=2)
    wait_until(lambda: cluster.service()["runningCount"] == 2, 10)
    assert len(cluster.deployments()) == 1
    cluster.update(arn, desiredCount=1, forceNewDeployment=True)
    assert cluster.ended()["status"] == "SUCCESSFUL"
    assert len(cluster.deployments()) == 2
    assert len(cluster.deployments(status=["IN_PROGRESS"])) == 0
    assert before not in [task["taskArn"] for task in cluster.tasks()]


def test_after_a_rollback_the_waiter_says_that_all_is_well(
    cluster: Cluster, images: Images
) -> None:
    old = cluster.define(images.one)
    cluster.create(old, deploymentConfiguration=BREAKER)
    cluster.ended()
    new = cluster.define(images.crashing)
    assert cluster.update(new)["taskDefinition"] == new
    done = cluster.ended()
    assert done["status"] == "ROLLBACK_SUCCESSFUL"
    assert done["deploymentCircuitBreaker"] == {
        "status": "TRIGGERED",
        "failureCount": 3,
        "threshold": 3,
    }
    assert "circuit breaker" in done["rollback"]["reason"]
    assert "deployment failed: tasks failed to start." in cluster.events()
    assert "rolling back to deployment ecs-svc/" in cluster.events()
    stopped = cluster.tasks("STOPPED")[0]
    assert stopped["stopCode"] == "EssentialContainerExited"
    assert stopped["stoppedReason"] == "Essential container in task exited"
    assert stopped["containers"][0]["exitCode"] == 1
    assert "version one" in cluster.said()
    # The trap: nothing here says that the release failed.
    assert cluster.stable()
    assert cluster.service()["taskDefinition"] == old
    assert cluster.service()["deployments"][0]["rolloutState"] == "COMPLETED"


def test_a_first_deployment_that_fails_has_nothing_to_roll_back_to(
    cluster: Cluster, images: Images
) -> None:
    cluster.create(cluster.define(images.crashing), deploymentConfiguration=BREAKER)
    assert cluster.ended()["status"] == "ROLLBACK_FAILED"
    assert cluster.service()["deployments"][0]["rolloutState"] == "FAILED"


def test_without_rollback_a_failed_deployment_stops_and_the_old_tasks_serve_on(
    cluster: Cluster, images: Images
) -> None:
    cluster.create(cluster.define(images.one), deploymentConfiguration=NO_ROLLBACK)
    cluster.ended()
    new = cluster.define(images.crashing)
    cluster.update(new)
    assert cluster.ended()["status"] == "STOPPED"
    assert cluster.service()["taskDefinition"] == new
    assert cluster.service()["deployments"][0]["rolloutState"] == "FAILED"
    assert not cluster.stable()
    assert "version one" in cluster.said()


def test_tasks_that_fail_their_health_check_are_failed_tasks(
    cluster: Cluster, images: Images
) -> None:
    cluster.create(cluster.define(images.one), deploymentConfiguration=BREAKER)
    cluster.ended()
    sick = {"command": ["CMD-SHELL", "exit 1"], "interval": 5, "retries": 1}
    cluster.update(cluster.define(images.two, healthCheck=sick))
    assert cluster.ended()["status"] == "ROLLBACK_SUCCESSFUL"
    reasons = {task["stoppedReason"] for task in cluster.tasks("STOPPED")}
    assert "Task failed container health checks" in reasons
    assert "failed container health checks." in cluster.events()


def test_a_digest_that_is_not_there_cannot_be_pulled(cluster: Cluster, images: Images) -> None:
    cluster.create(cluster.define(images.one), deploymentConfiguration=BREAKER)
    cluster.ended()
    absent = f"{images.one.partition('@')[0]}@sha256:{unique()}{unique()}"
    cluster.update(cluster.define(absent))
    assert cluster.ended()["status"] == "ROLLBACK_SUCCESSFUL"
    stopped = cluster.tasks("STOPPED")[0]
    assert stopped["stopCode"] == "TaskFailedToStart"
    assert stopped["stoppedReason"].startswith("CannotPullContainerError: ")
    assert f"{absent}: not found" in stopped["containers"][0]["reason"]
    assert "was unable to place a task. Reason: CannotPullContainerError" in cluster.events()


def test_without_a_circuit_breaker_failing_tasks_are_tried_again_and_again(
    cluster: Cluster, images: Images
) -> None:
    cluster.create(cluster.define(images.one))
    cluster.ended()
    cluster.update(cluster.define(images.crashing))
    wait_until(lambda: cluster.service()["deployments"][0]["failedTasks"] > 4, 20)
    now = cluster.deployment()
    assert now["status"] == "IN_PROGRESS"
    assert now["deploymentCircuitBreaker"]["status"] == "DISABLED"
    assert "unable to consistently start tasks successfully" in cluster.events()
    assert "version one" in cluster.said()


def test_a_deployment_that_is_stopped_is_rolled_back_and_cannot_be_stopped_again(
    cluster: Cluster, images: Images
) -> None:
    old = cluster.define(images.one)
    cluster.create(old)
    cluster.ended()
    cluster.agent.hold(cluster.name)
    cluster.update(cluster.define(images.two))
    wait_until(lambda: cluster.deployment()["status"] == "IN_PROGRESS", 5)
    arn = cluster.deployment()["serviceDeploymentArn"]
    cluster.ecs.stop_service_deployment(serviceDeploymentArn=arn, stopType="ROLLBACK")
    assert cluster.ended()["status"] == "ROLLBACK_SUCCESSFUL"
    assert cluster.service()["taskDefinition"] == old
    with pytest.raises(cluster.ecs.exceptions.ConflictException):
        cluster.ecs.stop_service_deployment(serviceDeploymentArn=arn, stopType="ROLLBACK")
    with pytest.raises(cluster.ecs.exceptions.ServiceDeploymentNotFoundException):
        cluster.ecs.stop_service_deployment(serviceDeploymentArn=f"{arn}0")


def test_a_new_update_stops_the_deployment_that_is_in_progress(
    cluster: Cluster, images: Images
) -> None:
    cluster.create(cluster.define(images.one))
    cluster.ended()
    cluster.agent.hold(cluster.name)
    cluster.update(cluster.define(images.crashing))
    wait_until(lambda: cluster.deployment()["status"] == "IN_PROGRESS", 5)
    assert cluster.service()["currentServiceDeployment"]
    assert len(cluster.tasks()) == 1
    cluster.update(cluster.define(images.two))
    assert [one["status"] for one in cluster.deployments()][1:] == ["STOPPED", "SUCCESSFUL"]
    cluster.agent.release(cluster.name)
    assert cluster.ended()["status"] == "SUCCESSFUL"
    assert "version two" in cluster.said()


@pytest.mark.parametrize("strategy", ["BLUE_GREEN", "CANARY", "LINEAR"])
def test_during_the_bake_time_both_revisions_run_and_the_new_one_has_the_traffic(
    cluster: Cluster, images: Images, strategy: str
) -> None:
    long = 5  # seconds here: what is looked at below takes that long on a busy machine
    settings = {
        "strategy": strategy,
        "bakeTimeInMinutes": long,
        "canaryConfiguration": {"canaryPercent": 50.0, "canaryBakeTimeInMinutes": long},
        "linearConfiguration": {"stepPercent": 50.0, "stepBakeTimeInMinutes": long},
    }
    cluster.create(cluster.define(images.one), deploymentConfiguration={"bakeTimeInMinutes": 0})
    cluster.ended()
    cluster.update(cluster.define(images.two), deploymentConfiguration=settings)
    if strategy != "BLUE_GREEN":
        in_stage(cluster, "PRODUCTION_TRAFFIC_SHIFT")
        wait_until(lambda: {"version one", "version two"} <= said_by_four(cluster), 1)
    in_stage(cluster, "BAKE_TIME")
    assert cluster.deployment()["status"] == "IN_PROGRESS"
    assert len(cluster.tasks()) == 2
    wait_until(lambda: said_by_four(cluster) == {"version two"}, 1)
    assert cluster.ended()["status"] == "SUCCESSFUL"
    assert len(cluster.tasks()) == 1


def in_stage(cluster: Cluster, stage: str) -> None:
    wait_until(lambda: cluster.deployment().get("lifecycleStage") == stage, 10, stage)


def said_by_four(cluster: Cluster) -> set[str]:
    return {cluster.said().partition("This is ")[2].strip(".\n") for _ in range(4)}


def test_all_containers_of_a_task_run_and_only_essential_ones_end_it(
    cluster: Cluster, images: Images
) -> None:
    def side(name: str, code: str, **more: Any) -> dict[str, Any]:
        command = ["-c", code]
        shape = {"name": name, "image": images.two, "memory": 64, "entryPoint": ["python3"]}
        return {**shape, "command": command, **more}

    ends = side("ends", "print('done')", essential=False)
    code = "import os, time; time.sleep(3600 * int(os.environ['HOURS']))"
    stays = side("stays", code, environment=[{"name": "HOURS", "value": "1"}])
    token = {"environment": [{"name": "TOKEN", "value": "x"}]}
    cluster.create(cluster.define(images.crashing, ends, stays, **token))
    assert cluster.ended()["status"] == "SUCCESSFUL"
    containers = {one["name"]: one for one in cluster.tasks()[0]["containers"]}
    assert containers["ends"]["exitCode"] == 0
    assert [containers[name]["lastStatus"] for name in ("web", "ends", "stays")] == [
        "RUNNING",
        "STOPPED",
        "RUNNING",
    ]
    assert containers["stays"]["imageDigest"] == digest(images.two)
    assert "version three" in cluster.said()


def test_a_service_of_cloudformation_runs_and_is_rolled_back_as_its_template_says(
    cluster: Cluster, images: Images, moto: str
) -> None:
    cloudformation = client(moto, "cloudformation")

    def put(operation: Callable[..., Any], image: str) -> None:
        operation(
            StackName=cluster.name,
            TemplateBody=TEMPLATE,
            Parameters=[
                {"ParameterKey": "Image", "ParameterValue": image},
                {"ParameterKey": "Name", "ParameterValue": cluster.name},
            ],
        )

    put(cloudformation.create_stack, images.one)
    try:
        assert cluster.ended()["status"] == "SUCCESSFUL"
        put(cloudformation.update_stack, images.two)
        assert cluster.ended()["status"] == "SUCCESSFUL"
        assert "version two" in cluster.said()
        definition = cluster.ecs.describe_task_definition(taskDefinition=cluster.name)
        assert definition["taskDefinition"]["containerDefinitions"][0]["image"] == images.two
        put(cloudformation.update_stack, images.crashing)
        assert cluster.ended()["status"] == "ROLLBACK_SUCCESSFUL"
        assert len(cluster.deployments()) == 3
    finally:
        cloudformation.delete_stack(StackName=cluster.name)
    assert cluster.service()["status"] == "INACTIVE"


TEMPLATE = """
Parameters:
  Image: {Type: String}
  Name: {Type: String}
Resources:
  Definition:
    Type: AWS::ECS::TaskDefinition
    Properties:
      Family: !Ref Name
      ContainerDefinitions:
        - Name: web
          Image: !Ref Image
          Memory: 64
          PortMappings: [{ContainerPort: 8000}]
          Environment: [{Name: GREETING, Value: "true"}]
          HealthCheck:
            Command: [CMD-SHELL, wget -q -O /dev/null http://127.0.0.1:8000/health]
            Interval: 5
            StartPeriod: 200
  Service:
    Type: AWS::ECS::Service
    Properties:
      Cluster: it
      ServiceName: !Ref Name
      DesiredCount: 1
      LaunchType: FARGATE
      TaskDefinition: !Ref Definition
      DeploymentConfiguration:
        DeploymentCircuitBreaker: {Enable: true, Rollback: true}
"""


def test_no_request_is_lost_while_tasks_are_replaced(cluster: Cluster, images: Images) -> None:
    cluster.create(cluster.define(images.one), 2)
    cluster.ended()
    with Load(f"{cluster.url()}/") as load:
        for image in (images.two, images.one):
            cluster.update(cluster.define(image))
            assert cluster.ended()["status"] == "SUCCESSFUL"
        sent = load.sent
        wait_until(lambda: load.sent > sent + 10, 5)
    assert not load.faults, load.faults
    assert "version one" in cluster.said()


def test_a_task_that_a_user_stops_is_replaced(cluster: Cluster, images: Images) -> None:
    cluster.create(cluster.define(images.one))
    cluster.ended()
    arn = cluster.tasks()[0]["taskArn"]
    cluster.ecs.stop_task(cluster="it", task=arn, reason="by hand")
    wait_until(lambda: [task["lastStatus"] for task in cluster.tasks()] == ["RUNNING"], 10)
    stopped = cluster.tasks("STOPPED")[0]
    assert (stopped["taskArn"], stopped["stopCode"]) == (arn, "UserInitiated")
    assert cluster.service()["deployments"][0]["failedTasks"] == 0


def test_many_askers_at_once_get_whole_answers(cluster: Cluster, images: Images) -> None:
    cluster.create(cluster.define(images.crashing))
    with ThreadPoolExecutor(4) as askers:
        for found in askers.map(lambda _: cluster.service(), range(40)):
            assert len(found["deployments"]) == 1


def test_nothing_is_left_of_an_agent_that_ended(
    docker_host: DockerHost, images: Images, name: str
) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    label = {"filters": {"label": f"{LABEL}={name}-brief"}}
    try:
        with (
            docker_host.get_client() as docker,
            EcsAgent(docker_host, lambda: None, name=f"{name}-brief") as agent,
        ):
            cluster = Cluster("http://{}:{}".format(*server.get_host_and_port()), agent)
            cluster.create(cluster.define(images.one))
            url = cluster.url()
            wait_until(lambda: bool(docker.containers.list(**label)), 10)
        with docker_host.get_client() as docker:
            assert docker.containers.list(all=True, **label) == []
            assert docker.networks.list(**label) == []
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
    finally:
        server.stop()


@pytest.mark.parametrize("network", ["bridge", "host"])
def test_a_task_of_no_service_runs_with_what_it_is_given_and_its_exit_code_is_told(
    cluster: Cluster, images: Images, tmp_path: Path, network: str
) -> None:
    tmp_path.chmod(0o777)  # the image's user is another one
    definition = cluster.ecs.register_task_definition(
        family=cluster.name,
        networkMode=network,
        requiresCompatibilities=["EC2"],
        volumes=[{"name": "out", "host": {"sourcePath": str(tmp_path)}}],
        containerDefinitions=[
            {
                "name": "it",
                "image": images.one,
                "memory": 64,
                "environment": [{"name": "A", "value": "a"}, {"name": "B", "value": "b"}],
                "mountPoints": [{"sourceVolume": "out", "containerPath": "/out"}],
            }
        ],
    )["taskDefinition"]["taskDefinitionArn"]
    command = ["sh", "-c", "echo $A $B > /out/said; readlink /proc/self/ns/net > /out/net; exit 3"]
    change = {"name": "it", "command": command, "environment": [{"name": "B", "value": "c"}]}
    task = cluster.run(definition, containerOverrides=[change])
    wait_until(lambda: cluster.task(task)["lastStatus"] == "STOPPED", 20)
    ended = cluster.task(task)
    assert ended["containers"][0]["exitCode"] == 3
    assert (ended["launchType"], ended["group"]) == ("EC2", f"family:{cluster.name}")
    assert ended["stopCode"] == "EssentialContainerExited"
    assert (tmp_path / "said").read_text() == "a c\n"
    here = (tmp_path / "net").read_text().strip() == str(Path("/proc/self/ns/net").readlink())
    assert here == (network == "host")


def test_a_task_of_no_service_ends_when_it_is_stopped(cluster: Cluster, images: Images) -> None:
    task = cluster.run(cluster.define(images.one))
    wait_until(lambda: cluster.task(task)["lastStatus"] == "RUNNING", 20)
    assert task in cluster.ecs.list_tasks(cluster="it")["taskArns"]
    cluster.ecs.stop_task(cluster="it", task=task, reason="enough")
    wait_until(lambda: cluster.task(task)["lastStatus"] == "STOPPED", 20)
    ended = cluster.task(task)
    assert (ended["stopCode"], ended["stoppedReason"]) == ("UserInitiated", "enough")
