"""Tokenizer: text to ids and back over a `tokenizers` backend, with Hugging Face's fast-tokenizer surface."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from martlet.errors import ArgumentError, TokenizerError
from martlet.tokenizers import chat, saving, specials
from martlet.tokenizers.batch import BatchEncoding
from martlet.tokenizers.encoding import Limits, encode_rows, read_limits, read_rows, to_batch
from martlet.tokenizers.fast import Shortcut
from martlet.tokenizers.padding import pad_rows
from martlet.tokenizers.ragged import encode_ragged
from martlet.tokenizers.settings import Settings, refuse_unknown
from martlet.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from martlet.formats.tensors import TensorSource
    from martlet.tokenizers.settings import Files


class Tokenizer(Vocabulary):
    """Text to ids and back. The backend, made from tokenizer.json, decides every id; `settings` only name things.

    Calls from several threads are safe. See https://huggingface.co/docs/transformers/main_classes/tokenizer for
    the surface this follows.
    """

    is_fast = True
    pad_token_type_id = 0

    def __init__(self, backend: tokenizers.Tokenizer, settings: Settings | None = None, name_or_path: str = "") -> None:
        self.settings = settings or Settings()
        self.name_or_path = name_or_path
        self._backend = backend
        self._lock = threading.RLock()
        self._fast = Shortcut()
        specials.prepare_backend(backend, self.settings)
        self.padding_side = self.settings.padding_side or ("left" if self.settings.pads_left else "right")
        self.truncation_side = self.settings.truncation_side or "right"
        self.model_max_length = self.settings.model_max_length
        self.model_input_names = self.settings.model_input_names or specials.input_names(backend, self.settings)
        self.split_special_tokens = self.settings.split_special_tokens
        self.clean_up_tokenization_spaces = self.settings.clean_up_tokenization_spaces
        self.chat_template = self.settings.chat_template
        if self.settings.add_bos_token is not None or self.settings.add_eos_token is not None:
            self.update_post_processor()

    @classmethod
    def from_pretrained(cls, name_or_path: str | PathLike[str], *inputs: Any, **keywords: Any) -> Tokenizer:
        """The same as `AutoTokenizer.from_pretrained`."""
        from martlet.tokenizers.auto import AutoTokenizer

        return AutoTokenizer.from_pretrained(name_or_path, *inputs, **keywords)

    @classmethod
    def from_snapshot(cls, snapshot: Files, name_or_path: str = "", **keywords: Any) -> Tokenizer:
        """A tokenizer from the files of one revision: tokenizer.json, or what it can be built from."""
        from martlet.tokenizers.loading import load_tokenizer

        return load_tokenizer(snapshot, name_or_path or getattr(snapshot, "name", ""), keywords)

    @classmethod
    def from_gguf(cls, source: TensorSource | Mapping[str, Any], name_or_path: str = "", **keywords: Any) -> Tokenizer:
        """A tokenizer from the `tokenizer.*` keys of a GGUF file's metadata."""
        from martlet.tokenizers.gguf import tokenizer_from_gguf

        metadata = source if isinstance(source, Mapping) else source.metadata
        return tokenizer_from_gguf(metadata, name_or_path, keywords)

    # ---- text to ids

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool | None = None,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        max_target_length: int | None = None,
        split_special_tokens: bool | None = None,
        **unknown: Any,
    ) -> BatchEncoding:
        """Encode a text, a pair, a list of either, or with `is_split_into_words` lists of words.

        attention_mask is 1 for a real token and 0 for padding, on either side. `add_special_tokens` is true unless
        the text is a `Prompt` that a chat template made, which has its own. Errors: ArgumentError for arguments,
        TokenizerError for padding without a pad token or rows of different lengths in a tensor.

        Large batches are encoded by a faster library where it was proved to give the same ids
        (`martlet.datasets.tokenize_backend` tells, MARTLET_FAST_TOKENIZE=0 turns it off).
        """
        refuse_unknown(unknown, "Tokenizer", Tokenizer.__call__)
        if text is None and text_target is None:
            raise ArgumentError("Tokenizer", "needs text to encode", found="None")
        limits = read_limits(
            self, padding, truncation, max_length, stride, pad_to_multiple_of, padding_side, verbose=verbose
        )
        wanted = {
            "input_ids": True,
            "token_type_ids": self._wants("token_type_ids", return_token_type_ids),
            "attention_mask": self._wants("attention_mask", return_attention_mask),
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
            "length": return_length,
        }
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens

        def encode(texts: Any, pairs: Any, chosen: Limits) -> BatchEncoding:
            rows = read_rows(texts, pairs, is_split_into_words)
            adds = add_special_tokens if add_special_tokens is not None else not rows.all_prompts
            if not split and not return_overflowing_tokens:
                quick = encode_ragged(self, rows, adds, chosen, wanted, return_tensors)
                if quick is not None:
                    return quick
            encodings = encode_rows(self._backend, self._lock, rows, adds, chosen, split)
            return to_batch(encodings, rows.is_batch, wanted, return_overflowing_tokens, return_tensors)

        if text is None:
            return encode(text_target, text_pair_target, limits.with_length(max_target_length))
        result = encode(text, text_pair, limits)
        if text_target is not None:
            target = encode(text_target, text_pair_target, limits.with_length(max_target_length))
            result["labels"] = target["input_ids"]
        return result

    def written(self) -> str:
        """The tokenizer as the JSON of `tokenizers`, without padding and truncation."""
        with self._lock:
            return self._fast.written(self._backend)

    def _wants(self, name: str, asked: bool | None) -> bool:
        return name in self.model_input_names if asked is None else asked

    def encode(self, text: Any, text_pair: Any = None, add_special_tokens: bool | None = None, **options: Any) -> Any:
        """The `input_ids` of `__call__`."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, **options)["input_ids"]

    encode_plus = batch_encode_plus = __call__  # its older names

    def encode_rendered(self, text: str | list[str], **options: Any) -> BatchEncoding:
        """Encode text that a chat template already rendered: no token is added, so no BOS can be doubled."""
        return self(text, add_special_tokens=False, **options)

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text, as the vocabulary spells them."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad rows that are already ids: a mapping of lists, or a list of mappings as a collator gets them."""
        limits = read_limits(self, padding, None, max_length, 0, pad_to_multiple_of, padding_side, padding_only=True)
        wants_mask = self._wants("attention_mask", return_attention_mask)
        return pad_rows(encoded_inputs, limits, wants_mask, return_tensors)

    # ---- ids to text

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **unknown: Any,
    ) -> Any:
        """The text of ids; of a batch (lists in a list, or a 2-D tensor), a list of texts."""
        refuse_unknown(unknown, "decode", Tokenizer.decode)
        if isinstance(token_ids, Mapping):
            token_ids = token_ids["input_ids"]
        if hasattr(token_ids, "tolist"):
            token_ids = token_ids.tolist()
        if isinstance(token_ids, int):
            token_ids = [token_ids]
        ids = [number.tolist() if hasattr(number, "tolist") else number for number in token_ids]
        if ids and isinstance(ids[0], (list, tuple)):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        wrong = [n for n in ids if not isinstance(n, int) or not 0 <= n < 2**32]
        if wrong:
            raise TokenizerError("decode", "needs ids from 0 to 2**32 - 1", found=repr(wrong[0]))
        text = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        cleans = self.cleans_up_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        return self.clean_up_tokenization(text) if cleans and not self.is_bpe else text

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **unknown: Any,
    ) -> list[str]:
        """`decode` that always gives a list."""
        refuse_unknown(unknown, "batch_decode", Tokenizer.decode)
        result = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [result] if isinstance(result, str) else result

    # ---- chats and saving

    def apply_chat_template(self, conversation: Any, tools: Any = None, **options: Any) -> Any:
        """See `martlet.tokenizers.chat.apply_chat_template`: the same arguments as Hugging Face's, version 5."""
        return chat.apply_chat_template(self, conversation, tools, **options)

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """The template that `apply_chat_template` would use: text, or the name of one of several."""
        return chat.choose_template(self.chat_template, chat_template, tools)

    def save_pretrained(
        self, save_directory: str | PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write tokenizer.json, tokenizer_config.json and the chat templates; both libraries load them again."""
        return saving.save_tokenizer(self, Path(save_directory), filename_prefix)


PreTrainedTokenizerBase = Tokenizer  # what type annotations call it
