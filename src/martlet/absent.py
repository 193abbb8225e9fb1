"""Names of transformers' that martlet lacks, and what stands in for them; its modules' names, for imports."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from re import fullmatch
from types import ModuleType
from typing import Any

_TEXT_ALONE = "martlet is for text: models of pictures, sound and video are not here."
_TWO_PARTS = "Encoder-decoder models are not here; a decoder that is told what to do translates and sums up."
_OF_OTHERS = "Load a GGUF file of the model, or the original with quantize='int8' or 'int4'."
_CACHES = "Keys and values are kept by generate; kv_cache_dtype= and kv_cache_bytes= choose how."
_OWN_PARTS = "A family is data here: docs/add-a-family.md adds one."
_WATERMARKS = "Text is not marked; a LogitsProcessor of your own can do it."

# By pattern, the first that fits: what to say.
_REMEDIES: tuple[tuple[str, str], ...] = (
    (r"(TF|Flax)[A-Z]\w+", "There is no TensorFlow and no JAX here: use the class without the prefix."),
    (r"AdamW", "Use torch.optim.AdamW."),
    (r"Adafactor(Schedule)?", "Pass optim='adafactor' to TrainingArguments, or use torch.optim.Adafactor."),
    (r"AutoModelForSeq2SeqLM|\w*Seq2SeqLM|EncoderDecoder\w+|(Summarization|Translation|Text2TextGeneration)Pipeline",
     _TWO_PARTS),
    (r"(T5|MT5|Bart|MBart|MBart50|Marian|MarianMT|Pegasus|M2M100|NllbMoe|BlenderBot|Blenderbot)\w+", _TWO_PARTS),
    (r"AutoModelWithLMHead", "Use AutoModelForCausalLM or AutoModelForMaskedLM."),
    (r"\w+For(NextSentencePrediction|PreTraining|TableQuestionAnswering)|\w+DoubleHeadsModel",
     "There is no such head; docs/heads.md lists those there are."),
    (r"Auto(Processor|ImageProcessor\w*|FeatureExtractor|VideoProcessor|Backbone)|AutoModelFor(Vision|Image|Audio|Speech|"
     r"Video|Visual|Object|Depth|Mask|Semantic|Instance|Universal|Zero|Document|Keypoint|TextTo|CTC|Multimodal)\w*",
     _TEXT_ALONE),
    (r"(Whisper|Wav2Vec2|CLIP|SigLIP|Siglip|ViT|Llava|Blip|Idefics|PaliGemma|Qwen2VL|Qwen2_5_VL|Gemma3ForCond|SpeechT5|"
     r"Musicgen|DETR|Detr|Sam|Segformer|Swin|DPT|Hubert)\w+|\w*(ForConditionalGeneration|Processor|FeatureExtractor|"
     r"ImageProcessor\w*)|(Image|Audio|Video|Automatic|Visual|Object|Depth|Mask)\w*Pipeline", _TEXT_ALONE),
    (r"(GPTQ|Awq|AWQ|Quanto|Hqq|Eetq|Aqlm|VptQ|Vptq|TorchAo|FbgemmFp8|CompressedTensors|Higgs|SpQR|BitNet|"
     r"FineGrainedFP8|FPQuant|AutoRound|Mxfp4)\w*Config", _OF_OTHERS),
    (r"(Static|Offloaded|Quantized|Sliding\w*|Hybrid\w*|EncoderDecoder|Quanto\w*)?Cache(Config)?", _CACHES),
    (r"(SynthID\w*|\w*Watermark\w*|BayesianDetector\w*)", _WATERMARKS),
    (r"(Phrasal|Disjunctive)?Constraint(ListState)?|Constrained\w+|BeamScorer|BeamSearchScorer|BeamHypotheses",
     "generate(num_beams=) searches by itself; prefix_allowed_tokens_fn holds output to a form."),
    (r"GenerationMixin|ModelOutput|PushToHubMixin|Pipeline|PreTrainedTokenizer|Conv1D",
     "Classes of your own are not built on martlet's: models have generate, and pipeline() makes pipelines."),
    (r"CompileConfig|ContinuousBatchingConfig|TorchExportableModule\w+",
     "The native engine compiles nothing and batches rows as they come."),
    (r"\w+PreTrainedModel|\w+(For\w+|Model|LMHeadModel|Config|Tokenizer|TokenizerFast)", ""),
)  # fmt: skip


def explain(name: str) -> str:
    """What to do without a name of transformers' that martlet lacks; "" for a name that is not one of them."""
    if not name[:1].isupper():
        return ""
    for pattern, remedy in _REMEDIES:
        if fullmatch(pattern, name):
            return remedy or _families()
    return ""


def _families() -> str:
    known = import_module("martlet.families").load_families()
    return f"The families are {', '.join(sorted(known))}. {_OWN_PARTS}"


# transformers' modules whose public names scripts import by their full path. Each gives martlet's names.
MODULES = (
    "cache_utils",
    "configuration_utils",
    "data",
    "data.data_collator",
    "generation.configuration_utils",
    "generation.logits_process",
    "generation.stopping_criteria",
    "generation.utils",
    "hf_argparser",
    "integrations",
    "modeling_outputs",
    "modeling_utils",
    "models",
    "models.auto",
    "optimization",
    "tokenization_utils",
    "tokenization_utils_base",
    "tokenization_utils_fast",
    "trainer",
    "trainer_callback",
    "trainer_seq2seq",
    "trainer_utils",
    "training_args",
    "training_args_seq2seq",
    "utils",
    "utils.logging",
    "utils.versions",
)


_OF_TRAINING = r"martlet\.(trainer|training_args|optimization)\w*"
_FAMILYS = r"models\.[a-z]\w*(\.[a-z]\w*)?"  # models.llama, models.llama.modeling_llama


class Elsewhere:
    """Finds `martlet.trainer_utils` and the like: modules made as they are asked for, which hold martlet's names.

    `from martlet import Name` asks for a module of a name that is no attribute: there MissingNameError, which is an
    ImportError, says what to do without it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.removeprefix("martlet.")
        if name == fullname:
            return None
        if name in MODULES or fullmatch(_FAMILYS, name):
            is_package = name.startswith("models") or any(other.startswith(f"{name}.") for other in MODULES)
            return ModuleSpec(fullname, self, is_package=is_package)  # type: ignore[arg-type]
        home, _, last = name.rpartition(".")
        is_ours = home in ("", "generation", "pipelines", "tokenizers", *MODULES) or home.startswith("models.")
        remedy = explain(last) if is_ours else ""
        if home == "training":
            remedy = import_module("martlet.training.absent").explain(last)
        if remedy:
            from martlet.errors import MissingNameError

            raise MissingNameError(fullname, "is not here", remedy=remedy)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Names(spec.name, "martlet's names under a module's name of transformers'.")

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run: names are looked up as they are asked for."""


class _Names(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.__name__.endswith(".logging"):
            return getattr(import_module("martlet.logging"), name)
        if fullmatch(_OF_TRAINING, self.__name__) and name in dir(import_module("martlet.training")):
            return getattr(import_module("martlet.training"), name)
        return getattr(import_module("martlet"), name)


def install() -> None:
    """Lets transformers' modules be imported from martlet, where martlet has none of that name."""
    if not any(isinstance(finder, Elsewhere) for finder in sys.meta_path):
        sys.meta_path.append(Elsewhere())
