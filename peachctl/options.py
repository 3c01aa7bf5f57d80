"""How an executor runs workflows: what the configuration and the command line amount to."""

from dataclasses import dataclass, field
from pathlib import Path

from peachctl.runtime.job import Reach


@dataclass(frozen=True, slots=True)
class Options:
    """How workflows are run here. Times in seconds, sizes in bytes.

    workers: most nodes of one workflow at once. edited: whether a script that was edited runs as edited (`watch`).
    """

    hub: Path
    queue: Path
    workflow_temp: Path
    download_workflows: Path
    download_files: Path
    slots: int = 1
    scheduler: str = "processes"
    workers: int = 1
    lease: float = 30.0
    drain: float = 30.0
    max_attempts: int = 3
    per_user: int | None = None
    time_limit: float | None = None
    free_space: int = 0
    edited: bool = False
    debug: bool = False
    reach: Reach = field(default_factory=Reach)
    term_grace: float = 10.0
    sweep: float = 5.0
    beat: float = 1.0

    @property
    def orders_after(self) -> float:
        """Seconds without a beat after which the supervisor ends all runs: well before the lease runs out."""
        return self.lease * 2 / 3
