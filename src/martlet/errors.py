"""Every exception martlet raises on purpose. Each message says: subject, rule, what was found, the remedy.

MartletError
├── ArgumentError (ValueError, TypeError)   a keyword, or its value, that we do not take
├── ConfigError (ValueError)                config.json or generation_config.json says something impossible
│   └── UnknownFamilyError                  a model_type that no family file covers
├── FormatError (ValueError)                a file that is not what its name says
│   ├── SafetensorsError
│   ├── GgufError
│   ├── PickleError                         a torch pickle that is damaged, or holds more than weights
│   ├── JsonError
│   └── DataFileError                       rows that cannot be read: names the file, line and column
├── WeightsError (ValueError)               tensors missing, surplus or of the wrong shape
├── TokenizerError (ValueError)             a tokenizer that is damaged, ambiguous or missing
│   └── ChatTemplateError
├── HubError (OSError)                      files that cannot be had
│   ├── OfflineError (ConnectionError)      ... because the network is not to be used
│   └── DatasetNotFoundError (FileNotFoundError)   data files, or a dataset, that are not there
├── SaveError (OSError)                     files that cannot be written; what was there before is intact
├── DeviceError (ValueError)                a device that this machine does not have
├── GenerationError (ValueError)            a request that cannot be generated from
│   ├── EmptyPromptError
│   ├── PromptTooLongError
│   ├── TokenRangeError                     an id outside the vocabulary
│   ├── NonFiniteLogitsError                the model gave NaN or infinity
│   └── CacheMemoryError                    keys and values do not fit the memory they are given
├── TrainingError (RuntimeError)            a run that cannot start or go on
│   ├── TrainingDataError (ValueError)      rows that this objective cannot learn from
│   ├── LossError                           a loss that is not finite, or explodes; names the samples
│   ├── CheckpointError (ValueError)        a checkpoint that is torn, or of another model or run
│   ├── RunFolderError                      two runs in one output folder
│   └── LostRankError                       another process of the run is gone
├── DatasetError (ValueError)               data that cannot be had as asked
│   ├── FeatureError (TypeError)            values, or columns, that do not fit their kind
│   ├── MapError                            a function whose results do not fit together; names the rows
│   ├── HashingError (TypeError)            a thing that a cached function uses and that cannot be hashed
│   ├── WorkerError (RuntimeError)          a worker that died; names the rows and the reason
│   └── CacheError (OSError)                a cache that cannot be written, or is damaged
├── UnsupportedError (NotImplementedError)  a capability we name but do not have
│   └── MissingNameError (ImportError)      a name of transformers' that cannot be imported from here
└── MissingDependencyError (ImportError)    an optional package is needed; says which and how to get it
"""


class MartletError(Exception):
    """Root of the tree. `str(error)` is one line: subject, rule, found, remedy."""

    def __init__(self, subject: str, rule: str = "", *, found: object = None, remedy: str = "") -> None:
        self.subject, self.rule, self.found, self.remedy = subject, rule, found, remedy
        text = f"{subject}: {rule}" if rule else subject
        if found is not None:
            text += f"; found {found}"
        if not text.endswith((".", "?", "!")):
            text += "."
        if remedy:
            text += f" {remedy}"
        super().__init__(text)

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError-like parents would quote it

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.subject, self.rule, self.found, self.remedy)


def _rebuild(kind: type[MartletError], subject: str, rule: str, found: object, remedy: str) -> MartletError:
    return kind(subject, rule, found=found, remedy=remedy)


class ArgumentError(MartletError, ValueError, TypeError): ...


class ConfigError(MartletError, ValueError): ...


class UnknownFamilyError(ConfigError): ...


class FormatError(MartletError, ValueError): ...


class SafetensorsError(FormatError): ...


class GgufError(FormatError): ...


class PickleError(FormatError): ...


class JsonError(FormatError): ...


class DataFileError(FormatError): ...


class WeightsError(MartletError, ValueError): ...


class TokenizerError(MartletError, ValueError): ...


class ChatTemplateError(TokenizerError): ...


class HubError(MartletError, OSError): ...


class OfflineError(HubError, ConnectionError): ...


class DatasetNotFoundError(HubError, FileNotFoundError): ...


class SaveError(MartletError, OSError): ...


class DeviceError(MartletError, ValueError): ...


class GenerationError(MartletError, ValueError): ...


class EmptyPromptError(GenerationError): ...


class PromptTooLongError(GenerationError): ...


class TokenRangeError(GenerationError): ...


class NonFiniteLogitsError(GenerationError): ...


class CacheMemoryError(GenerationError): ...


class TrainingError(MartletError, RuntimeError): ...


class TrainingDataError(TrainingError, ValueError): ...


class LossError(TrainingError): ...


class CheckpointError(TrainingError, ValueError): ...


class RunFolderError(TrainingError): ...


class LostRankError(TrainingError): ...


class DatasetError(MartletError, ValueError): ...


class FeatureError(DatasetError, TypeError): ...


class MapError(DatasetError): ...


class HashingError(DatasetError, TypeError): ...


class WorkerError(DatasetError, RuntimeError): ...


class CacheError(DatasetError, OSError): ...


class UnsupportedError(MartletError, NotImplementedError): ...


class MissingNameError(UnsupportedError, ImportError): ...


class MissingDependencyError(MartletError, ImportError): ...
