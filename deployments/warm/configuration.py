"""How a run's process is configured, as Prefect does it, but for what is the same for all runs."""

from prefect.settings import Settings, get_current_settings
from prefect.workers.process import ProcessJobConfiguration

_written: list[tuple[Settings, dict[str, str]]] = []


def settings_as_variables() -> dict[str, str]:
    """Prefect's settings of this process, written as it writes them for a run.

    To write them takes 30 ms, and a process that runs has the same ones from its start to its end.
    """
    settings = get_current_settings()
    if not _written or _written[0][0] is not settings:
        _written[:] = [(settings, settings.to_environment_variables(exclude_unset=True))]
    return dict(_written[0][1])


class WarmConfiguration(ProcessJobConfiguration):
    """Prefect's own for its process worker."""

    @classmethod
    def _base_environment(cls) -> dict[str, str]:
        return settings_as_variables()
