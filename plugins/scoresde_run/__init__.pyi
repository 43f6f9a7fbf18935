"""Where the names are from; :mod:`scoresde_core.lazy` and type checkers read this file."""

from .commands.shell import run as run
from .data.batches import Batch as Batch
from .data.batches import Batches as Batches
from .data.batches import Preprocessing as Preprocessing
from .data.dataset import Dataset as Dataset
from .data.dataset import Events as Events
from .data.dataset import Split as Split
from .data.dequantizer import Dequantizer as Dequantizer
from .data.evidence import Evidence as Evidence
from .data.evidence import Reference as Reference
from .data.units import Units as Units
from .features.extraction import EventSet as EventSet
from .features.extraction import Extraction as Extraction
from .features.extractor import Extractor as Extractor
from .features.extractor import Features as Features
from .machine.processes import Processes as Processes
from .machine.progress import Progress as Progress
from .models.checkpoint import Checkpoint as Checkpoint
from .models.classifier import NoisyClassifier as NoisyClassifier
from .models.config import Config as Config
from .models.model import Model as Model
from .models.model import Plan as Plan
from .models.model import plan_data as plan_data
from .models.model import plan_model as plan_model
from .models.network import Network as Network
from .models.network_score import NetworkScore as NetworkScore
from .results.fingerprint import Fingerprint as Fingerprint
from .results.results import Row as Row
from .sampling.condition import (
    Condition as Condition,
)
from .sampling.condition import (
    ConditionedSampler as ConditionedSampler,
)
from .sampling.condition import (
    Observation as Observation,
)
from .sampling.guidance import Guidance as Guidance
from .sampling.guidance import GuidedSampler as GuidedSampler
from .training.run import TrainingRun as TrainingRun
from .training.trainer import Trainer as Trainer
from .training.trainer import plan_training as plan_training
