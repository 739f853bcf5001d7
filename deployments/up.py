"""`samebits up`: the system in the foreground."""

import signal
import threading
from types import FrameType

from deployments import example
from deployments.environment import api_password
from deployments.system import System


def stay_up(system: System) -> None:
    """Say where everything is, and stay until Ctrl-C; a part that ends is started again."""
    settings = system.settings
    system.say(
        f"""
Prefect UI   {settings.ui_url}  (password {api_password(settings)})
receiver     {settings.receiver_url}
stage, prod  http://127.0.0.1:{settings.stage_port}  http://127.0.0.1:{settings.prod_port}
channel      {settings.channel_file} (until the block of the Slack channel has a token)
logs         {settings.home / "logs"}

The example's branches master and release are built and deployed at the first start.
Try it: git clone {example.bare_repository(settings)} && cd {example.NAME}
Change something, commit, push to master, and watch. Ctrl-C stops everything."""
    )
    stop = threading.Event()

    def asked(_: int, __: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, asked)
    while not stop.wait(1):
        system.look_after()
    system.say("\nStopping…")
