"""IterableDataset: rows read as they are asked for. Verbs add a step; nothing runs before iteration."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from martlet.datasets import exporting, pushing, search
from martlet.datasets.arguments import verb
from martlet.datasets.column import IterableColumn
from martlet.datasets.config import async_calls
from martlet.datasets.features import Features, List
from martlet.datasets.formatting import PLAIN, Format, format_table, make_format
from martlet.datasets.info import DatasetInfo
from martlet.datasets.streams import columns, making
from martlet.datasets.streams.blocks import Blocks
from martlet.datasets.streams.calling import (
    Shaped,
    caller,
    of_batch,
    of_batches,
    of_mask,
    of_masks,
    of_row,
    of_row_masks,
    of_rows,
    shaped,
)
from martlet.datasets.streams.node import Context, Node, Numbered, Row, Run, Strided
from martlet.datasets.streams.numbered import Again, Applied, Lists, Part
from martlet.datasets.streams.unnumbered import Batched, Filtered, Gathered, Grouped, Limited, Repeated
from martlet.errors import ArgumentError

_OF_INFO = (
    *("description", "citation", "homepage", "license", "builder_name", "config_name", "version", "dataset_size"),
    *("download_size", "download_checksums", "size_in_bytes", "supervised_keys"),
)


class IterableDataset:
    """Rows in an order, read when they are iterated. The verbs are `datasets.IterableDataset`'s.

    Where the rows of the source are counted (Dataset, Parquet, Arrow, local JSON Lines and text) a shuffle is a
    permutation of all rows that is computed, not stored: the same order for any number of workers and ranks.
    `state_dict()` while iterating is where the next row comes from; after `load_state_dict` iteration goes on there.
    """

    def __init__(self, node: Node, *, split: str | None = None, info: DatasetInfo | None = None) -> None:
        self._node, self._split, self._form = node, split, PLAIN
        self._info = info if info is not None else DatasetInfo(features=node.features)
        self._rank, self._world, self._strategy = 0, 1, "auto"
        self._epoch: Any = _shared(0)
        self._resume: dict[str, Any] | None = None
        self._run: Run | None = None
        self._context = Context()

    # a torch DataLoader asks isinstance(dataset, torch.utils.data.IterableDataset); so torch is told, if it is there
    @property  # type: ignore[misc]
    def __class__(self) -> type[IterableDataset]:
        if "torch" in sys.modules:
            from torch.utils.data import IterableDataset as Theirs

            Theirs.register(IterableDataset)
        return IterableDataset

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.__getstate__(),)

    def _like(self, node: Node) -> IterableDataset:
        new = _made({**self.__getstate__(), "_node": node, "_resume": None, "_epoch": _shared(int(self._epoch))})
        new._info = copy.copy(self._info)
        new._info.features = node.features
        return new

    # What is known of it

    @property
    def features(self) -> Features | None:
        """The columns and their kinds; None after a `map` that was not told."""
        return self._node.features

    @property
    def info(self) -> DatasetInfo:
        """Description, licence, features."""
        return self._info

    def __getattr__(self, name: str) -> Any:
        if name in _OF_INFO:
            return getattr(self.__dict__["_info"], name)
        raise AttributeError(f"an IterableDataset has no attribute {name!r}")

    def __getitem__(self, column_name: Any) -> IterableColumn:
        """A column by name: the values, as they are iterated."""
        if not isinstance(column_name, str):
            remedy = "ds.take(n), ds.skip(n) and iteration give rows."
            found = type(column_name).__name__
            raise ArgumentError("a stream", "is indexed by a column's name", found=found, remedy=remedy)
        columns.known(self, [column_name])
        return IterableColumn(self, column_name)

    @property
    def split(self) -> str | None:
        """The name of the split."""
        return self._split

    @property
    def column_names(self) -> list[str] | None:
        """Names of the columns, where they are known."""
        return list(self.features) if self.features is not None else None

    @property
    def num_columns(self) -> int | None:
        """Columns, where they are known."""
        return len(self.features) if self.features is not None else None

    @property
    def num_rows(self) -> int | None:
        """Rows, where they are counted."""
        return self._node.num_rows

    @property
    def num_shards(self) -> int:
        """Files, or parts, that can be read on their own; of a rank, its own."""
        if self._strategy == "examples":
            return self._node.num_shards
        return max(1, len(range(self._rank, self._node.num_shards, self._world)))

    @property
    def n_shards(self) -> int:
        """`num_shards`."""
        return self.num_shards

    @property
    def epoch(self) -> int:
        """The epoch whose order is given."""
        return int(self._epoch)

    def __repr__(self) -> str:
        names = "Unknown" if self.column_names is None else self.column_names
        return f"IterableDataset({{\n    features: {names},\n    num_shards: {self.num_shards}\n}})"

    # Iteration and its state

    def _begin(self) -> Run:
        index, count = self._rank, self._world
        if "torch" in sys.modules:
            from torch.utils.data import get_worker_info

            worker = get_worker_info()
            if worker is not None:
                index, count = self._rank + self._world * worker.id, self._world * worker.num_workers
        self._context = Context(int(self._epoch), index, count)
        resume, self._resume = self._resume, None
        state = None
        if resume is not None and resume["epoch"] == int(self._epoch):
            # one that was taken before the first row is of nobody
            if resume["run"] is not None and (resume["index"], resume["count"]) != (index, count):
                raise ArgumentError(
                    "load_state_dict",
                    f"the state is of worker {resume['index']} of {resume['count']}",
                    found=f"worker {index} of {count}",
                    remedy="Go on with as many workers and ranks.",
                )
            state = resume["run"]
        if self._strategy == "examples" and count > 1 and self._node.num_rows is None:
            self._run = Strided(self._node, state, self._context)
        else:
            self._run = self._node.run(state, self._context)
        return self._run

    def __iter__(self) -> Iterator[Any]:
        run = self._begin()
        if self._form.kind is None:
            yield from run
            return
        for row in run:
            yield shaped([row], self.features, self._form, True)

    def iter(self, batch_size: int, drop_last_batch: bool = False) -> Iterator[Any]:
        """Batches: columns of lists, or in the format that was set."""
        run = self._begin()
        while True:
            if self._form.kind is not None and isinstance(run, Numbered):
                table = run.arrow(batch_size)
                if table is not None:
                    if table.num_rows < batch_size and drop_last_batch:
                        return
                    features = self.features or Features.from_arrow_schema(table.schema)
                    yield format_table(table, features, self._form)
                    continue
            lists = run.lists(batch_size)
            if lists is None or (drop_last_batch and len(next(iter(lists.values()), [])) < batch_size):
                return
            yield lists if self._form.kind is None else shaped(lists, self.features, self._form, False)

    def state_dict(self) -> dict[str, Any]:
        """Where the next row comes from: JSON, of a size that the number of rows does not change."""
        run = self._run.state() if self._run is not None else None
        if self._resume is not None:
            return dict(self._resume)
        return {"epoch": int(self._epoch), "run": run, "index": self._context.index, "count": self._context.count}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The next iteration goes on where the state was taken, row for row, the shuffle included."""
        if set(state_dict) != {"epoch", "run", "index", "count"}:
            raise ArgumentError("load_state_dict", "takes what state_dict() gave", found=sorted(map(str, state_dict)))
        self._resume, self._run = copy.deepcopy(dict(state_dict)), None

    def set_epoch(self, epoch: int) -> None:
        """Shuffles are of this epoch from the next iteration on."""
        if isinstance(self._epoch, int):
            self._epoch = _shared(epoch)
        else:
            self._epoch.fill_(epoch)

    # Verbs

    @verb
    def map(
        self,
        function: Callable[..., Any] | None = None,
        with_indices: bool = False,
        input_columns: str | list[str] | None = None,
        batched: bool = False,
        batch_size: int | None = 1000,
        drop_last_batch: bool = False,
        remove_columns: str | list[str] | None = None,
        features: Features | None = None,
        fn_kwargs: dict[str, Any] | None = None,
    ) -> IterableDataset:
        """A function of each row (or of batches of columns), whose result is put over the row. Runs when iterated."""
        waits = inspect.iscoroutinefunction(function)
        call = self._called(function, with_indices, input_columns, fn_kwargs, batched, awaits=not waits)
        removed = [remove_columns] if isinstance(remove_columns, str) else list(remove_columns or [])
        made = Features(features) if features is not None else None
        if batched:
            batches = of_batches(call, removed, made) if waits else None
            one = of_batch(call, removed, made)
            step: Node = Batched(self._node, one, batch_size, drop_last_batch, made, with_indices, batches)
        else:
            many = of_rows(call, removed, made) if waits else None
            step = Applied(self._node, of_row(call, removed, made), made, with_indices, many)
        return self._like(step)

    def _called(
        self,
        function: Any,
        with_indices: bool,
        input_columns: Any,
        fn_kwargs: Any,
        batched: bool,
        *,
        awaits: bool = True,
    ) -> Callable[[Any, Any], Any]:
        """The function as one of a row (or columns) and its number, called with the format's objects."""
        call = caller(function, with_indices, input_columns, fn_kwargs, awaits=awaits)
        if function is None or self._form.kind is None:
            return call
        return Shaped(call, self._form, self.features, not batched)

    @verb
    def filter(
        self,
        function: Callable[..., Any] | None = None,
        with_indices: bool = False,
        input_columns: str | list[str] | None = None,
        batched: bool = False,
        batch_size: int | None = 1000,
        fn_kwargs: dict[str, Any] | None = None,
    ) -> IterableDataset:
        """The rows for which the function is true."""
        waits = inspect.iscoroutinefunction(function)
        call = self._called(function, with_indices, input_columns, fn_kwargs, batched, awaits=not waits)
        if not batched and not waits:
            return self._like(Filtered(self._node, lambda row, number: bool(call(row, number)), with_indices))
        many = of_masks(call) if batched and waits else None
        size = batch_size if batched else async_calls()
        one = of_mask(call) if batched else of_row_masks(call)
        return self._like(Batched(self._node, one, size, False, self.features, with_indices, many))

    @verb
    def shuffle(
        self,
        seed: int | None = None,
        generator: Any = None,
        buffer_size: int = 1000,
        max_buffer_input_shards: int = 10,
    ) -> IterableDataset:
        """Rows in another order, by `seed` and the epoch. Filters and maps below it stay where they are in the script.

        Counted rows are permuted as a whole, in blocks so that reads stay nearly sequential. Of a stream of unknown
        length the files (or the lists of `gen_kwargs`) are permuted, up to `max_buffer_input_shards` of them read in
        turn, and each `buffer_size` rows of that permuted; `skip` and `take` below it keep the files' order.
        """
        import numpy as np

        for name, value in (("buffer_size", buffer_size), ("max_buffer_input_shards", max_buffer_input_shards)):
            if value < 1:
                raise ArgumentError("shuffle()", f"{name} must be at least 1", found=value)
        if generator is not None:
            seed = int(copy.deepcopy(generator).integers(0, 1 << 62))
        if seed is None:
            seed = int(np.random.default_rng().integers(0, 1 << 62))
        return self._like(self._node.shuffled(int(seed), buffer_size, max_buffer_input_shards))

    @verb
    def skip(self, n: int) -> IterableDataset:
        """Without the first n rows. Which these are is fixed: a shuffle before it keeps the order of epoch 0."""
        _not_negative("skip", n)
        if self.num_rows is not None:
            return self._like(Part(self._node, n, None, is_fixed=True))
        return self._like(Limited(self._node, n, None))

    @verb
    def take(self, n: int) -> IterableDataset:
        """The first n rows. Which these are is fixed: a shuffle before it keeps the order of epoch 0."""
        _not_negative("take", n)
        if self.num_rows is not None:
            return self._like(Part(self._node, 0, n, is_fixed=True))
        return self._like(Limited(self._node, 0, n))

    @verb
    def repeat(self, num_times: int | None) -> IterableDataset:
        """All rows so many times, or for ever (None)."""
        if num_times is not None and self.num_rows is not None:
            return self._like(Again(self._node, max(0, num_times)))
        return self._like(Repeated(self._node, num_times))

    @verb
    def shard(self, num_shards: int, index: int, contiguous: bool = True) -> IterableDataset:
        """Part `index` of `num_shards`: neighbouring rows, or with contiguous=False every so manyth.

        Of a stream whose rows are not counted: whole files where there are enough, else every so manyth row.
        """
        if not 0 <= index < num_shards:
            raise ArgumentError("shard", f"index must be 0 to {num_shards - 1}", found=index)
        return self._like(self._node.sharded(num_shards, index, contiguous))

    def reshard(self) -> IterableDataset:
        """The same stream: workers and ranks are dealt rows where rows are counted, so that no file need be cut up."""
        return self._like(self._node)

    @verb
    def batch(
        self,
        batch_size: int | None = None,
        by_column: str | list[str] | None = None,
        drop_last_batch: bool = False,
    ) -> IterableDataset:
        """Rows of lists: `batch_size` rows in each, or neighbouring rows that agree in `by_column`."""
        if batch_size is None and by_column is None:
            raise ArgumentError("batch()", "needs batch_size or by_column")
        features = None if self.features is None else Features({n: List(kind) for n, kind in self.features.items()})
        if by_column is not None:
            keys = [by_column] if isinstance(by_column, str) else list(by_column)
            columns.known(self, keys)
            return self._like(Grouped(self._node, keys, features))
        assert batch_size is not None
        if batch_size < 1:
            raise ArgumentError("batch()", "batch_size must be at least 1", found=batch_size)
        step = Lists if self.num_rows is not None else Gathered
        return self._like(step(self._node, batch_size, drop_last_batch, features))

    @verb
    def with_format(self, type: str | None = None) -> IterableDataset:
        """Rows and batches as "numpy", "torch", "pandas", "polars" or "arrow"; None for Python objects."""
        new = self._like(self._node)
        new._form = make_format(type, None, False, self.column_names or [], {})
        return new

    def with_transform(self, transform: Callable[[dict[str, list[Any]]], dict[str, list[Any]]]) -> IterableDataset:
        """Rows and batches through a function of columns, as they are handed out."""
        new = self._like(self._node)
        new._form = Format("custom", transform=transform)
        return new

    # To other forms

    def to_list(self) -> list[Row]:
        """All rows."""
        return list(self)

    @verb
    def to_dict(self, batch_size: int | None = None, batched: bool = False) -> Any:
        """All rows as columns, as lists; `batched` gives them in parts of `batch_size` rows."""
        return exporting.to_dict(Blocks(self), batch_size, batched)

    def to_dataset(self) -> Any:
        """A Dataset of all rows, in memory."""
        from martlet.datasets.dataset import Dataset

        blocks = Blocks(self)
        return Dataset(blocks._whole(None), DatasetInfo(features=blocks.features), self._split)

    @verb
    def to_pandas(self, batch_size: int | None = None, batched: bool = False) -> Any:
        """A pandas DataFrame of what is stored, or, `batched`, several."""
        return exporting.to_pandas(Blocks(self), batch_size, batched)

    @verb
    def to_polars(
        self,
        batch_size: int | None = None,
        batched: bool = False,
        schema_overrides: dict[str, Any] | None = None,
        rechunk: bool = True,
    ) -> Any:
        """A Polars DataFrame, or, `batched`, several."""
        return exporting.to_polars(Blocks(self), batch_size, batched, schema_overrides, rechunk)

    def to_csv(self, path_or_buf: Any, *args: Any, **kwargs: Any) -> int:
        """Writes CSV in one pass, as `Dataset.to_csv`; returns the bytes written."""
        return exporting.to_csv(Blocks(self), path_or_buf, *args, **kwargs)

    def to_json(self, path_or_buf: Any, *args: Any, **kwargs: Any) -> int:
        """Writes JSON in one pass, as `Dataset.to_json`; returns the bytes written."""
        return exporting.to_json(Blocks(self), path_or_buf, *args, **kwargs)

    def to_parquet(self, path_or_buf: Any, *args: Any, **kwargs: Any) -> int:
        """Writes Parquet in one pass, as `Dataset.to_parquet`; returns the bytes of the tables."""
        return exporting.to_parquet(Blocks(self), path_or_buf, *args, **kwargs)

    def to_sql(self, name: str, con: Any, *args: Any, **kwargs: Any) -> int:
        """Writes a table of a database in one pass, as `Dataset.to_sql`; returns the number of rows."""
        return exporting.to_sql(Blocks(self), name, con, *args, **kwargs)

    push_to_hub = pushing.push_to_hub
    decode = columns.decode
    select_columns = columns.select_columns
    remove_columns = columns.remove_columns
    rename_column = columns.rename_column
    rename_columns = columns.rename_columns
    add_column = columns.add_column
    cast = columns.cast
    cast_column = columns.cast_column
    from_dict = classmethod(making.from_dict)
    from_list = classmethod(making.from_list)
    from_pandas = classmethod(making.from_pandas)
    from_polars = classmethod(making.from_polars)
    from_generator = classmethod(making.from_generator)
    from_file = classmethod(making.from_file)
    from_csv = classmethod(making.from_csv)
    from_json = classmethod(making.from_json)
    from_parquet = classmethod(making.from_parquet)
    from_text = classmethod(making.from_text)
    from_spark = staticmethod(search.from_spark)


def from_dataset(dataset: Any, num_shards: int | None = 1) -> IterableDataset:
    """A Dataset's rows as a stream; `num_shards` is how many workers its rows are meant for."""
    from martlet.datasets.streams.reading import FromDataset

    made = IterableDataset(FromDataset(dataset, num_shards or 1), split=dataset.split)
    made._form = dataset._form
    return made


def _shared(epoch: int) -> Any:
    """The epoch where workers that stay alive see it when it is set: torch's shared memory, if torch is there."""
    if "torch" not in sys.modules:
        return epoch
    import torch

    return torch.tensor(epoch).share_memory_()  # type: ignore[no-untyped-call]


def _made(state: dict[str, Any]) -> IterableDataset:
    new = object.__new__(IterableDataset)
    new.__dict__.update(state)
    return new


def _not_negative(what: str, count: int) -> None:
    if count < 0:
        raise ArgumentError(what, "must be 0 or more rows", found=count)
