"""Small tools under Dassl's names: files, seeds, meters, registry, log, checkpoints. Each module's __all__ names its own."""
# ruff: noqa: F403

from dicap.engine.utils.logger import *
from dicap.engine.utils.meters import *
from dicap.engine.utils.registry import *
from dicap.engine.utils.tools import *
from dicap.engine.utils.torchtools import *
