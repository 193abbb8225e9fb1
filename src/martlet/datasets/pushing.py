"""push_to_hub: splits as Parquet shards with a dataset card, in one commit."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from martlet.datasets.arguments import verb
from martlet.datasets.audio import Audio
from martlet.datasets.card import features_to_card
from martlet.datasets.features import Features, changed
from martlet.datasets.image import Image, open_file
from martlet.datasets.kinds import LargeList, List, walk
from martlet.errors import ArgumentError, HubError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


STREAMED_ROWS = 1000  # rows of a stream that are written at a time


@dataclass(frozen=True)
class _Sent:
    """A split's files, by their names in the repository, and what is in them."""

    files: dict[str, Path]
    num_bytes: int
    num_rows: int
    features: Features


@verb
def push_to_hub(
    dataset: Any,
    repo_id: str,
    config_name: str = "default",
    set_default: bool | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str | None = None,
    num_shards: int | Mapping[str, int] | None = None,
    embed_external_files: bool = True,
    num_proc: int | None = None,
) -> Any:
    """Sends a dataset, or all splits of a dict of them, to a dataset repository of the Hub, which is made if need be.

    Parquet shards (data/train-00000-of-00001.parquet) and the card's `configs:` and `dataset_info:` go in one commit:
    readers see the old data or the new. Files of the same splits from before are removed. Pictures and sound are put
    into the Parquet. A stream is read once, a shard after the other. `num_proc` files are sent at a time, by default 5.
    HubError says what the Hub refused.
    """
    import huggingface_hub
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, errors

    if max_shard_size is not None and num_shards is not None:
        raise ArgumentError("push_to_hub()", "takes max_shard_size or num_shards, not both")
    max_shard_size = "500MB" if max_shard_size is None else max_shard_size
    splits = dict(dataset) if isinstance(dataset, Mapping) else {str(split or dataset.split or "train"): dataset}
    for name in splits:
        if not re.fullmatch(r"\w+(\.\w+)*", name):
            raise ArgumentError("split", "must be a plain name to be sent", found=repr(name), remedy="Pass split=.")
    _check_alike([each.features for each in splits.values() if each.features is not None])
    top = data_dir or ("data" if config_name == "default" else config_name)
    api = huggingface_hub.HfApi(token=token)
    message = commit_message or "Upload dataset"
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        repo_id = getattr(url, "repo_id", repo_id)
        there = api.list_repo_files(repo_id, repo_type="dataset", revision=revision)
        with tempfile.TemporaryDirectory(prefix="martlet-push-") as folder:
            made: dict[str, Path] = {}
            infos, kinds = [], []
            for name, each in splits.items():
                count = num_shards.get(name) if isinstance(num_shards, Mapping) else num_shards
                shards = _shards if hasattr(each, "data") else _stream_shards
                sent = shards(each, name, top, Path(folder), max_shard_size, count, embed_external_files)
                made.update(sent.files)
                kinds.append(sent.features)
                size = sum(path.stat().st_size for path in sent.files.values())
                infos.append({"name": name, "num_bytes": sent.num_bytes, "num_examples": sent.num_rows, "size": size})
            _check_alike(kinds)
            old = [n for n in there if any(_is_shard(n, top, name) for name in splits) and n not in made]
            readme = Path(folder, "README.md")
            text = _current_card(api, repo_id, revision) if "README.md" in there else ""
            readme.write_text(_card(text, config_name, top, kinds[0], infos, set_default), "utf-8")
            operations: list[Any] = [
                CommitOperationAdd(name, path) for name, path in {**made, "README.md": readme}.items()
            ]
            operations += [CommitOperationDelete(name) for name in old]
            return api.create_commit(
                repo_id,
                operations,
                commit_message=message,
                commit_description=commit_description,
                repo_type="dataset",
                revision=revision,
                create_pr=create_pr,
                num_threads=num_proc or 5,
            )
    except (errors.HfHubHTTPError, errors.HFValidationError) as problem:
        raise HubError(repo_id, "could not be sent to the Hub", found=" ".join(str(problem).split())[:200]) from problem


def _check_alike(kinds: Sequence[Any]) -> None:
    if len({str(features) for features in kinds}) > 1:
        raise ArgumentError("push_to_hub", "needs splits with the same features")


def _is_shard(name: str, top: str, split: str) -> bool:
    return re.fullmatch(rf"{re.escape(top)}/{re.escape(split)}-\d{{5}}-of-\d{{5}}\S*\.parquet", name) is not None


def _bytes(size: int | str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", str(size).upper())
    if found is None or found[2] not in _UNITS:
        raise ArgumentError("max_shard_size", "must be bytes, or like '500MB'", found=repr(size))
    return max(1, int(float(found[1]) * _UNITS[found[2]]))


def _shards(
    dataset: Any, split: str, top: str, folder: Path, max_size: int | str, count: int | None, embeds: bool
) -> _Sent:
    """The split's Parquet files, by their names in the repository."""
    if count is None:
        count = max(1, -(-int(dataset.data.nbytes) // _bytes(max_size)))
    count = min(count, max(1, len(dataset)))
    made = {}
    for number in range(count):
        name = f"{top}/{split}-{number:05d}-of-{count:05d}.parquet"
        path = folder / f"{split}-{number}.parquet"
        part = dataset.shard(num_shards=count, index=number, contiguous=True) if count > 1 else dataset
        if embeds and any(map(_has_files, part.features.values())):
            part = _embedded(part)
        part.to_parquet(str(path))
        made[name] = path
    return _Sent(made, int(dataset.data.nbytes), len(dataset), dataset.features)


def _stream_shards(
    stream: Any, split: str, top: str, folder: Path, max_size: int | str, count: int | None, embeds: bool
) -> _Sent:
    """A stream's Parquet files: a shard of its own each where `count` says how many, else as its rows come."""
    import pyarrow.parquet

    from martlet.datasets.streams.blocks import Blocks
    from martlet.datasets.streams.reading import fitted_to

    if stream.features is not None and any(map(_has_files, stream.features.values())):
        stream = stream.decode(False)  # as they are in the files, not written anew
    whole = Blocks(stream)
    features, paths, num_bytes, num_rows = whole.features, list[Path](), 0, 0
    parts = [Blocks(stream.shard(count, number)) for number in range(count)] if count else [whole]
    for part in parts:
        writer, written = None, 0
        for table in part._tables(STREAMED_ROWS, always=count is not None or not paths):
            table = fitted_to(table, features.arrow_schema)
            if embeds:
                table = filled(table, features)
            if writer is None or (count is None and written and written + table.nbytes > _bytes(max_size)):
                if writer is not None:
                    writer.close()
                paths.append(folder / f"{split}-{len(paths)}.parquet")
                writer, written = pyarrow.parquet.ParquetWriter(paths[-1], features.arrow_schema), 0
            writer.write_table(table)
            written += table.nbytes
            num_bytes, num_rows = num_bytes + table.nbytes, num_rows + table.num_rows
        if writer is not None:
            writer.close()
    names = [f"{top}/{split}-{number:05d}-of-{len(paths):05d}.parquet" for number in range(len(paths))]
    decoded = Features(changed(features, _decoding))
    return _Sent(dict(zip(names, paths, strict=True)), num_bytes, num_rows, decoded)


def _decoding(kind: Any) -> Any:
    return replace(kind, decode=True) if isinstance(kind, (Image, Audio)) else None


def _embedded(dataset: Any) -> Any:
    """The same with the bytes of pictures and sound that are files."""
    features = dataset.features

    def with_files(table: pa.Table) -> pa.Table:
        return filled(table, features)

    form = dataset.with_format("arrow")
    return form.map(with_files, batched=True, batch_size=100, features=features, cache=False).with_format(None)


def filled(table: pa.Table, features: Features) -> pa.Table:
    """The table with the bytes of the files that its pictures and sounds are paths of."""
    for name in [name for name, kind in features.items() if _has_files(kind)]:
        values = [_with_bytes(features[name], value) for value in table.column(name).to_pylist()]
        column = pa.array(values, table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    return table


def _has_files(kind: Any) -> bool:
    """Whether values of the kind, or what is in them, may be files."""
    return any(isinstance(sub, Image | Audio) for sub in walk(kind))


def _with_bytes(kind: Any, value: Any) -> Any:
    """The value with the bytes of files, at any depth."""
    if value is None or not _has_files(kind):
        return value
    if isinstance(kind, dict):
        return {name: _with_bytes(kind[name], sub) for name, sub in value.items()}
    if isinstance(kind, List | LargeList):
        return [_with_bytes(kind.feature, item) for item in value]
    if value["bytes"] is not None or value["path"] is None:
        return value
    with open_file(value["path"]) as file:
        return {**value, "bytes": file.read(), "path": os.path.basename(value["path"].partition("::")[0])}


def _current_card(api: Any, repo_id: str, revision: str | None) -> str:
    path = api.hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=revision)
    return Path(path).read_text("utf-8")


def _card(
    text: str, config: str, top: str, features: Any, infos: list[dict[str, Any]], set_default: bool | None
) -> str:
    """The card with this configuration in its front matter; the rest as it was."""
    import yaml

    block = re.match(r"\A---\s*\n(.*?)\n?---\s*(?:\n|\Z)", text.replace("\r\n", "\n"), re.DOTALL)
    body = text.replace("\r\n", "\n")[block.end() :] if block else text
    about = (yaml.safe_load(block[1]) if block else None) or {}
    data_files = [{"split": info["name"], "path": f"{top}/{info['name']}-*"} for info in infos]
    configs = [each for each in about.get("configs") or [] if each.get("config_name") != config]
    old: dict[str, Any] = next((each for each in about.get("configs") or [] if each.get("config_name") == config), {})
    kept = [
        f
        for f in old.get("data_files") or []
        if isinstance(f, Mapping) and f.get("split") not in {i["name"] for i in infos}
    ]
    new: dict[str, Any] = {"config_name": config, "data_files": [*kept, *data_files]}
    if set_default or old.get("default"):
        new["default"] = True
        configs = [{key: value for key, value in each.items() if key != "default"} for each in configs]
    about["configs"] = sorted([*configs, new], key=lambda each: str(each["config_name"]))
    described = about.get("dataset_info") or []
    described = described if isinstance(described, list) else [{"config_name": "default", **described}]
    before: dict[str, Any] = next((each for each in described if each.get("config_name", "default") == config), {})
    splits = [s for s in before.get("splits") or [] if s.get("name") not in {info["name"] for info in infos}]
    splits += [{key: info[key] for key in ("name", "num_bytes", "num_examples")} for info in infos]
    entry = {
        "config_name": config,
        "features": features_to_card(features),
        "splits": splits,
        "download_size": sum(info["size"] for info in infos),
        "dataset_size": sum(each["num_bytes"] for each in splits),
    }
    rest = [each for each in described if each.get("config_name", "default") != config]
    about["dataset_info"] = (
        [*rest, entry] if rest else {k: v for k, v in entry.items() if k != "config_name" or config != "default"}
    )
    return f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---\n{body}"
