"""Ports: what the training layer asks of the outside, as protocols."""

from crucible_train.ports.backend import BackendCapabilities, TrainingBackend, TrainingSpec
from crucible_train.ports.blob_store import BlobStore
from crucible_train.ports.chat_template import ChatTemplated, TemplateCall, TemplateText
from crucible_train.ports.completer import Completer, Completion, CompletionResponse
from crucible_train.ports.dataset_store import DatasetStore
from crucible_train.ports.event_sink import EventSink
from crucible_train.ports.handle import Handle
from crucible_train.ports.hub import HubClient, RepoType
from crucible_train.ports.launcher import Job, JobState, JobStatus, Launcher, Resources
from crucible_train.ports.metrics_store import MetricsStore
from crucible_train.ports.model_registry import ModelRegistry
from crucible_train.ports.python_bridge import BridgeFault, BridgeReply, PythonBridge
from crucible_train.ports.sampling import SamplingClient
from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.ports.training import CustomLoss, CustomLossFn, TrainingClient

__all__ = [
    "BackendCapabilities",
    "BlobStore",
    "BridgeFault",
    "BridgeReply",
    "ChatTemplated",
    "Completer",
    "Completion",
    "CompletionResponse",
    "CustomLoss",
    "CustomLossFn",
    "DatasetStore",
    "EventSink",
    "Handle",
    "HubClient",
    "Job",
    "JobState",
    "JobStatus",
    "Launcher",
    "MetricsStore",
    "ModelRegistry",
    "PythonBridge",
    "RepoType",
    "Resources",
    "SamplingClient",
    "TemplateCall",
    "TemplateText",
    "Tokenizer",
    "TrainingBackend",
    "TrainingClient",
    "TrainingSpec",
]
