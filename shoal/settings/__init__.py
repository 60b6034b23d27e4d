"""Every option of Shoal, declared once: its name, type, default, bounds and help text.

The command lines of `shoal` and of the jobs, their SHOAL_* environment variables and the arguments of the Serve
application are all derived from these models (`shoal/cli/options.py`). Each module holds what one part of Shoal is set
with; everything is imported from here.
"""

from shoal.settings.base import Name, Settings
from shoal.settings.build import (
    BuildSettings,
    GateDemand,
    GateSettings,
)
from shoal.settings.capacity import CapacitySettings
from shoal.settings.catalog import CatalogSettings
from shoal.settings.compact import CompactSettings, DueLimitSettings, DueSettings, SelfCompactionSettings
from shoal.settings.create import CreateSettings
from shoal.settings.evaluate import EvaluateSettings, RecommendSettings
from shoal.settings.index import (
    AnalyzerSettings,
    AutoSettings,
    IndexSettings,
    LateSettings,
    LexicalSettings,
)
from shoal.settings.inference import (
    EMBEDDED_ENCODER,
    PASSAGE_TOKENS,
    EncoderSettings,
    InferenceSettings,
    RerankerSettings,
    TokenCacheSettings,
)
from shoal.settings.ranking import FusionSettings, SearchModeSettings, SecondStageSettings, SpellingSettings
from shoal.settings.serve import EndpointSettings, RunSettings, ServeSettings
from shoal.settings.serve_groups import (
    AccessSettings,
    AdmissionSettings,
    BacklogSettings,
    DeadlineSettings,
    DialectSettings,
    FanOutSettings,
    FilterLimitSettings,
    HealthCheckSettings,
    LoggingSettings,
    ReplicaResourceSettings,
    ReplicaSettings,
    RequestLimitSettings,
    ServedModelSettings,
    VersionSettings,
)
from shoal.settings.sources import ChunkSettings, MetadataSettings, MetadataType, SourceSettings
from shoal.settings.train import TrainSettings
from shoal.settings.train_blend import BlendTrainingSettings

__all__ = [
    "EMBEDDED_ENCODER",
    "PASSAGE_TOKENS",
    "AccessSettings",
    "AdmissionSettings",
    "AnalyzerSettings",
    "AutoSettings",
    "BacklogSettings",
    "BlendTrainingSettings",
    "BuildSettings",
    "CapacitySettings",
    "CatalogSettings",
    "ChunkSettings",
    "CompactSettings",
    "CreateSettings",
    "DeadlineSettings",
    "DialectSettings",
    "DueLimitSettings",
    "DueSettings",
    "EncoderSettings",
    "EndpointSettings",
    "EvaluateSettings",
    "FanOutSettings",
    "FilterLimitSettings",
    "FusionSettings",
    "GateDemand",
    "GateSettings",
    "HealthCheckSettings",
    "IndexSettings",
    "InferenceSettings",
    "LateSettings",
    "LexicalSettings",
    "LoggingSettings",
    "MetadataSettings",
    "MetadataType",
    "Name",
    "RecommendSettings",
    "ReplicaResourceSettings",
    "ReplicaSettings",
    "RequestLimitSettings",
    "RerankerSettings",
    "RunSettings",
    "SearchModeSettings",
    "SecondStageSettings",
    "SelfCompactionSettings",
    "ServeSettings",
    "ServedModelSettings",
    "Settings",
    "SourceSettings",
    "SpellingSettings",
    "TokenCacheSettings",
    "TrainSettings",
    "VersionSettings",
]
