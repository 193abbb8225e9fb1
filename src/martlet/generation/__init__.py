"""Generation over any backend: configuration, scores, stopping, streaming, the decode loop. Knows no torch modules.

Names are imported on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from martlet.generation.adapters import EncoderNoRepeatNGramLogitsProcessor as EncoderNoRepeatNGramLogitsProcessor
    from martlet.generation.adapters import (
        EncoderRepetitionPenaltyLogitsProcessor as EncoderRepetitionPenaltyLogitsProcessor,
    )
    from martlet.generation.adapters import EosTokenCriteria as EosTokenCriteria
    from martlet.generation.adapters import EpsilonLogitsWarper as EpsilonLogitsWarper
    from martlet.generation.adapters import EtaLogitsWarper as EtaLogitsWarper
    from martlet.generation.adapters import ExponentialDecayLengthPenalty as ExponentialDecayLengthPenalty
    from martlet.generation.adapters import ForcedBOSTokenLogitsProcessor as ForcedBOSTokenLogitsProcessor
    from martlet.generation.adapters import ForcedEOSTokenLogitsProcessor as ForcedEOSTokenLogitsProcessor
    from martlet.generation.adapters import InfNanRemoveLogitsProcessor as InfNanRemoveLogitsProcessor
    from martlet.generation.adapters import LogitNormalization as LogitNormalization
    from martlet.generation.adapters import LogitsProcessor as LogitsProcessor
    from martlet.generation.adapters import LogitsProcessorList as LogitsProcessorList
    from martlet.generation.adapters import MaxLengthCriteria as MaxLengthCriteria
    from martlet.generation.adapters import MaxTimeCriteria as MaxTimeCriteria
    from martlet.generation.adapters import MinLengthLogitsProcessor as MinLengthLogitsProcessor
    from martlet.generation.adapters import MinNewTokensLengthLogitsProcessor as MinNewTokensLengthLogitsProcessor
    from martlet.generation.adapters import MinPLogitsWarper as MinPLogitsWarper
    from martlet.generation.adapters import NoBadWordsLogitsProcessor as NoBadWordsLogitsProcessor
    from martlet.generation.adapters import NoRepeatNGramLogitsProcessor as NoRepeatNGramLogitsProcessor
    from martlet.generation.adapters import PrefixConstrainedLogitsProcessor as PrefixConstrainedLogitsProcessor
    from martlet.generation.adapters import RepetitionPenaltyLogitsProcessor as RepetitionPenaltyLogitsProcessor
    from martlet.generation.adapters import SequenceBiasLogitsProcessor as SequenceBiasLogitsProcessor
    from martlet.generation.adapters import StoppingCriteria as StoppingCriteria
    from martlet.generation.adapters import StoppingCriteriaList as StoppingCriteriaList
    from martlet.generation.adapters import StopStringCriteria as StopStringCriteria
    from martlet.generation.adapters import SuppressTokensAtBeginLogitsProcessor as SuppressTokensAtBeginLogitsProcessor
    from martlet.generation.adapters import SuppressTokensLogitsProcessor as SuppressTokensLogitsProcessor
    from martlet.generation.adapters import TemperatureLogitsWarper as TemperatureLogitsWarper
    from martlet.generation.adapters import TopHLogitsWarper as TopHLogitsWarper
    from martlet.generation.adapters import TopKLogitsWarper as TopKLogitsWarper
    from martlet.generation.adapters import TopPLogitsWarper as TopPLogitsWarper
    from martlet.generation.adapters import TypicalLogitsWarper as TypicalLogitsWarper
    from martlet.generation.config import GenerationConfig as GenerationConfig
    from martlet.generation.config import GenerationMode as GenerationMode
    from martlet.generation.generate import generate_rows as generate_rows
    from martlet.generation.outputs import GenerateBeamDecoderOnlyOutput as GenerateBeamDecoderOnlyOutput
    from martlet.generation.outputs import GenerateDecoderOnlyOutput as GenerateDecoderOnlyOutput
    from martlet.generation.outputs import GenerateOutput as GenerateOutput
    from martlet.generation.outputs import compute_transition_scores as compute_transition_scores
    from martlet.generation.processors import build_processors as build_processors
    from martlet.generation.processors import from_torch_processor as from_torch_processor
    from martlet.generation.processors import guide as guide
    from martlet.generation.sampling import set_seed as set_seed
    from martlet.generation.stopping import build_stops as build_stops
    from martlet.generation.streamers import AsyncTextIteratorStreamer as AsyncTextIteratorStreamer
    from martlet.generation.streamers import BaseStreamer as BaseStreamer
    from martlet.generation.streamers import TextIteratorStreamer as TextIteratorStreamer
    from martlet.generation.streamers import TextStreamer as TextStreamer

_HOMES = {
    "AsyncTextIteratorStreamer": "streamers",
    "BaseStreamer": "streamers",
    "EncoderNoRepeatNGramLogitsProcessor": "adapters",
    "EncoderRepetitionPenaltyLogitsProcessor": "adapters",
    "EosTokenCriteria": "adapters",
    "EpsilonLogitsWarper": "adapters",
    "EtaLogitsWarper": "adapters",
    "ExponentialDecayLengthPenalty": "adapters",
    "ForcedBOSTokenLogitsProcessor": "adapters",
    "ForcedEOSTokenLogitsProcessor": "adapters",
    "GenerateBeamDecoderOnlyOutput": "outputs",
    "GenerateDecoderOnlyOutput": "outputs",
    "GenerateOutput": "outputs",
    "GenerationConfig": "config",
    "GenerationMode": "config",
    "InfNanRemoveLogitsProcessor": "adapters",
    "LogitNormalization": "adapters",
    "LogitsProcessor": "adapters",
    "LogitsProcessorList": "adapters",
    "MaxLengthCriteria": "adapters",
    "MaxTimeCriteria": "adapters",
    "MinLengthLogitsProcessor": "adapters",
    "MinNewTokensLengthLogitsProcessor": "adapters",
    "MinPLogitsWarper": "adapters",
    "NoBadWordsLogitsProcessor": "adapters",
    "NoRepeatNGramLogitsProcessor": "adapters",
    "PrefixConstrainedLogitsProcessor": "adapters",
    "RepetitionPenaltyLogitsProcessor": "adapters",
    "SequenceBiasLogitsProcessor": "adapters",
    "StopStringCriteria": "adapters",
    "StoppingCriteria": "adapters",
    "StoppingCriteriaList": "adapters",
    "SuppressTokensAtBeginLogitsProcessor": "adapters",
    "SuppressTokensLogitsProcessor": "adapters",
    "TemperatureLogitsWarper": "adapters",
    "TextIteratorStreamer": "streamers",
    "TextStreamer": "streamers",
    "TopHLogitsWarper": "adapters",
    "TopKLogitsWarper": "adapters",
    "TopPLogitsWarper": "adapters",
    "TypicalLogitsWarper": "adapters",
    "build_processors": "processors",
    "build_stops": "stopping",
    "compute_transition_scores": "outputs",
    "from_torch_processor": "processors",
    "generate_rows": "generate",
    "guide": "processors",
    "set_seed": "sampling",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
