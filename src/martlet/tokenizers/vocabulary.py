"""What a tokenizer's ids are: the vocabulary, tokens added to it, those with names, those put around a sequence."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from martlet.errors import ArgumentError
from martlet.tokenizers import specials
from martlet.tokenizers.fast import Shortcut
from martlet.tokenizers.settings import SPECIAL_NAMES, Settings


class _Token:
    """A named special token, as text."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: Vocabulary, owner: type | None = None) -> str | None:
        token = tokenizer.settings.special_tokens.get(self.name)
        return None if token is None else str(token)

    def __set__(self, tokenizer: Vocabulary, value: str | AddedToken | None) -> None:
        if value is None:
            tokenizer.settings.special_tokens.pop(self.name, None)
        elif isinstance(value, (str, AddedToken)):
            tokenizer.settings.special_tokens[self.name] = value
        else:
            raise ArgumentError(self.name, "must be a string, an AddedToken or None", found=type(value).__name__)


class _TokenId:
    """A named special token, as id."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, tokenizer: Vocabulary, owner: type | None = None) -> int | None:
        token = tokenizer.settings.special_tokens.get(self.name)
        return None if token is None else tokenizer._backend.token_to_id(str(token))

    def __set__(self, tokenizer: Vocabulary, value: int | None) -> None:
        token = None if value is None else tokenizer._backend.id_to_token(int(value))
        if value is not None and token is None:
            raise ArgumentError(f"{self.name}_id", "must be an id of the vocabulary", found=value)
        setattr(tokenizer, self.name, token)


class Vocabulary:
    """Ids and tokens over a `tokenizers` backend; `Tokenizer` adds text to it."""

    bos_token, bos_token_id = _Token(), _TokenId()
    eos_token, eos_token_id = _Token(), _TokenId()
    unk_token, unk_token_id = _Token(), _TokenId()
    sep_token, sep_token_id = _Token(), _TokenId()
    pad_token, pad_token_id = _Token(), _TokenId()
    cls_token, cls_token_id = _Token(), _TokenId()
    mask_token, mask_token_id = _Token(), _TokenId()

    settings: Settings
    model_max_length: int
    _backend: tokenizers.Tokenizer
    _lock: threading.RLock  # truncation and padding are states of the backend
    _fast: Shortcut

    # ---- vocabulary

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The backend itself. Whoever holds it may change it: from then on `tokenizers` alone encodes."""
        self._fast.is_exposed = True
        return self._backend

    @property
    def vocab_size(self) -> int:
        """Entries of the base vocabulary, without added tokens."""
        return self._backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added tokens too."""
        return self._backend.get_vocab(with_added_tokens=True)

    @property
    def vocab(self) -> dict[str, int]:
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return self._backend.get_added_tokens_decoder()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        return {token.content: number for number, token in sorted(self.added_tokens_decoder.items())}

    def get_added_vocab(self) -> dict[str, int]:
        return self.added_tokens_encoder

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Ids of tokens; of a token that is not there, the unknown token's id, or None without one."""
        if isinstance(tokens, str):
            found = self._backend.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Tokens of ids, as the vocabulary spells them; None for an id outside it."""
        if isinstance(ids, int):
            return self._backend.id_to_token(ids) if ids >= 0 else None
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.convert_ids_to_tokens(int(number)) for number in ids if int(number) not in skipped]

    @property
    def decoder(self) -> Any:
        """What joins tokens to text, of the `tokenizers` library."""
        return self._backend.decoder

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        decoder = self._backend.decoder
        return decoder.decode(tokens) if decoder is not None else " ".join(tokens)

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens that text is matched against whole; returns how many were new. Models must grow by as many."""
        listed = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else list(new_tokens)
        with self._lock:
            add = self._backend.add_special_tokens if special_tokens else self._backend.add_tokens
            self._fast.forget()
            return add(listed)

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Add tokens and name them: `{"pad_token": "[PAD]", "extra_special_tokens": [...]}`; returns how many were new.

        `additional_special_tokens` is the older name of `extra_special_tokens`.
        """
        new: list[AddedToken] = []
        for key, value in special_tokens_dict.items():
            if key in ("extra_special_tokens", "additional_special_tokens"):
                added = [specials.as_special(token) for token in value]
                kept = [] if replace_extra_special_tokens else self.settings.extra_special_tokens
                self.settings.extra_special_tokens = [*kept, *(t for t in added if str(t) not in map(str, kept))]
                new += added
            elif isinstance(value, (str, AddedToken)) and key.endswith("_token"):
                self.settings.special_tokens[key] = value
                new.append(specials.as_special(value))
            else:
                raise ArgumentError("add_special_tokens", "needs names that end in _token", found=repr(key))
        return self.add_tokens(new, special_tokens=True)

    # ---- new vocabularies, and files of one

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[Any],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[str | AddedToken] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Any:
        """A tokenizer of the same kind with `vocab_size` tokens learned from texts, or lists of them.

        Special tokens keep their roles; `special_tokens_map` renames them, old name to new. `options` are those of
        the trainer in `tokenizers`, `min_frequency` for one; `length`, the number of texts, is for the progress bar.
        """
        from martlet.tokenizers.learning import train_new

        return train_new(self, text_iterator, vocab_size, length, new_special_tokens, special_tokens_map, options)

    def save_vocabulary(
        self, save_directory: str | PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary alone: vocab.json and merges.txt, vocab.txt or unigram.json. Gives their paths."""
        from martlet.tokenizers.saving import save_vocabulary

        return save_vocabulary(self, Path(save_directory), filename_prefix)

    # ---- named special tokens

    SPECIAL_TOKENS_ATTRIBUTES = SPECIAL_NAMES

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """What tokenizer_config.json says, as `save_pretrained` would write it."""
        from martlet.tokenizers.saving import config_of

        return config_of(self)

    def __getattr__(self, name: str) -> Any:
        settings: Settings | None = self.__dict__.get("settings")
        base = name.removesuffix("_id")
        if settings is not None and base in settings.special_tokens:  # a model's own, such as image_token
            token = str(settings.special_tokens[base])
            return token if base == name else self._backend.token_to_id(token)
        raise AttributeError(f"Tokenizer has no attribute {name!r}")

    @property
    def special_tokens_map(self) -> dict[str, str]:
        named = self.settings.special_tokens
        names = [*(n for n in SPECIAL_NAMES if n in named), *(n for n in named if n not in SPECIAL_NAMES)]
        return {name: str(named[name]) for name in names}

    @property
    def extra_special_tokens(self) -> list[str]:
        return [str(token) for token in self.settings.extra_special_tokens]

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Iterable[str | AddedToken]) -> None:
        self.settings.extra_special_tokens = list(tokens)

    @property
    def additional_special_tokens(self) -> list[str]:
        return self.extra_special_tokens

    @property
    def all_special_tokens(self) -> list[str]:
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self.extra_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        found = (self._backend.token_to_id(token) for token in self.all_special_tokens)
        return [number for number in found if number is not None]

    # ---- tokens around a sequence

    @property
    def add_bos_token(self) -> bool:
        """Whether encoding puts the bos token in front."""
        if self.settings.add_bos_token is not None:
            return self.settings.add_bos_token
        return self.bos_token_id is not None and self.bos_token_id in specials.surroundings(self._backend)[0]

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self.settings.add_eos_token = self.add_eos_token
        self.settings.add_bos_token = bool(value)
        self.update_post_processor()

    @property
    def add_eos_token(self) -> bool:
        """Whether encoding puts the eos token at the end."""
        if self.settings.add_eos_token is not None:
            return self.settings.add_eos_token
        return self.eos_token_id is not None and self.eos_token_id in specials.surroundings(self._backend)[-1]

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self.settings.add_bos_token = self.add_bos_token
        self.settings.add_eos_token = bool(value)
        self.update_post_processor()

    def update_post_processor(self) -> None:
        """Make encoding add exactly the bos and eos tokens that `add_bos_token` and `add_eos_token` ask for."""
        bos = self.bos_token if self.add_bos_token else None
        eos = self.eos_token if self.add_eos_token else None
        with self._lock:
            specials.set_surroundings(self._backend, bos, eos)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return self._backend.num_special_tokens_to_add(pair)

    @property
    def max_len_single_sentence(self) -> int:
        """`model_max_length` without the tokens put around one sequence."""
        return self.model_max_length - self.num_special_tokens_to_add()

    @property
    def max_len_sentences_pair(self) -> int:
        """`model_max_length` without the tokens put around a pair."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """The ids with the tokens around them that encoding text would have added."""
        return specials.surround(self._backend, token_ids_0, token_ids_1)[0]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        return specials.surround(self._backend, token_ids_0, token_ids_1)[2]

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for special tokens, 0 for the rest: of the ids as they are, or as they would be with tokens around."""
        if not already_has_special_tokens:
            return specials.surround(self._backend, token_ids_0, token_ids_1)[1]
        if token_ids_1 is not None:
            raise ArgumentError("token_ids_1", "cannot be given when the ids already have their special tokens")
        special = set(self.all_special_ids)
        return [int(int(number) in special) for number in token_ids_0]

    # ---- spaces, and copies

    @property
    def is_bpe(self) -> bool:
        """Whether spaces are part of the tokens, so that none are cleaned up."""
        return type(self._backend.model).__name__ == "BPE"

    @property
    def cleans_up_spaces(self) -> bool:
        """Whether decode removes spaces before punctuation: asked for, and not BPE, whose spaces are real."""
        return self.clean_up_tokenization_spaces and not self.is_bpe

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """Remove the spaces that splitting English at punctuation made."""
        for mark in (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"):
            text = text.replace(mark, mark.strip())
        return text

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_fast")}

    def __copy__(self) -> Any:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)  # the backend is one, and so are its lock and what is known of it
        return new

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
        self._fast = Shortcut()

    def __repr__(self) -> str:
        return (
            f"Tokenizer(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map})"
        )
