"""One Docker engine, whole."""

from blocks.engine.images import Images
from blocks.engine.pruning import Pruning
from blocks.engine.sandbox import Sandbox


class Engine(Images, Pruning, Sandbox):
    """One Docker engine: its images, the containers that stay, and the sandbox for tests."""
