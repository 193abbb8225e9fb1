"""push_to_hub: splits as Parquet shards with a dataset card, in one commit."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from martlet.datasets.arguments import verb
from martlet.datasets.audio import Audio
from martlet.datasets.card import features_to_card
from martlet.datasets.image import Image
from martlet.errors import ArgumentError, HubError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


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
    max_shard_size: int | str = "500MB",
    num_shards: int | Mapping[str, int] | None = None,
    embed_external_files: bool = True,
) -> Any:
    """Sends a Dataset, or all splits of a DatasetDict, to a dataset repository of the Hub, which is made if need be.

    Parquet shards (data/train-00000-of-00001.parquet) and the card's `configs:` and `dataset_info:` go in one commit:
    readers see the old data or the new. Files of the same splits from before are removed. Pictures and sound are put
    into the Parquet. HubError says what the Hub refused.
    """
    import huggingface_hub
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, errors

    splits = dict(dataset) if isinstance(dataset, Mapping) else {str(split or dataset.split or "train"): dataset}
    for name in splits:
        if not re.fullmatch(r"\w+(\.\w+)*", name):
            raise ArgumentError("split", "must be a plain name to be sent", found=repr(name), remedy="Pass split=.")
    if len({str(each.features) for each in splits.values()}) > 1:
        raise ArgumentError("push_to_hub", "needs splits with the same features")
    top = data_dir or ("data" if config_name == "default" else config_name)
    api = huggingface_hub.HfApi(token=token)
    message = commit_message or "Upload dataset"
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        repo_id = getattr(url, "repo_id", repo_id)
        there = api.list_repo_files(repo_id, repo_type="dataset", revision=revision)
        with tempfile.TemporaryDirectory(prefix="martlet-push-") as folder:
            made: dict[str, Path] = {}
            infos = []
            for name, each in splits.items():
                count = num_shards.get(name) if isinstance(num_shards, Mapping) else num_shards
                shards = _shards(each, name, top, Path(folder), max_shard_size, count, embed_external_files)
                made.update(shards)
                size = sum(path.stat().st_size for path in shards.values())
                infos.append(
                    {"name": name, "num_bytes": int(each.data.nbytes), "num_examples": len(each), "size": size}
                )
            old = [n for n in there if any(_is_shard(n, top, name) for name in splits) and n not in made]
            readme = Path(folder, "README.md")
            text = _current_card(api, repo_id, revision) if "README.md" in there else ""
            features = next(iter(splits.values())).features
            readme.write_text(_card(text, config_name, top, features, infos, set_default), "utf-8")
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
            )
    except (errors.HfHubHTTPError, errors.HFValidationError) as problem:
        raise HubError(repo_id, "could not be sent to the Hub", found=" ".join(str(problem).split())[:200]) from problem


def _is_shard(name: str, top: str, split: str) -> bool:
    return re.fullmatch(rf"{re.escape(top)}/{re.escape(split)}-\d{{5}}-of-\d{{5}}\S*\.parquet", name) is not None


def _bytes(size: int | str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", str(size).upper())
    if found is None or found[2] not in _UNITS:
        raise ArgumentError("max_shard_size", "must be bytes, or like '500MB'", found=repr(size))
    return max(1, int(float(found[1]) * _UNITS[found[2]]))


def _shards(
    dataset: Any, split: str, top: str, folder: Path, max_size: int | str, count: int | None, embeds: bool
) -> dict[str, Path]:
    """The split's Parquet files, by their names in the repository."""
    if count is None:
        count = max(1, -(-int(dataset.data.nbytes) // _bytes(max_size)))
    count = min(count, max(1, len(dataset)))
    made = {}
    for number in range(count):
        name = f"{top}/{split}-{number:05d}-of-{count:05d}.parquet"
        path = folder / f"{split}-{number}.parquet"
        part = dataset.shard(num_shards=count, index=number, contiguous=True) if count > 1 else dataset
        if embeds and any(isinstance(kind, (Image, Audio)) for kind in part.features.values()):
            part = _embedded(part)
        part.to_parquet(str(path))
        made[name] = path
    return made


def _embedded(dataset: Any) -> Any:
    """The same with the bytes of pictures and sound that are files."""
    media = [name for name, kind in dataset.features.items() if isinstance(kind, (Image, Audio))]

    def filled(table: pa.Table) -> pa.Table:
        for name in media:
            values = [_with_bytes(value) for value in table.column(name).to_pylist()]
            column = pa.array(values, table.schema.field(name).type)
            table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
        return table

    form = dataset.with_format("arrow")
    return form.map(filled, batched=True, batch_size=100, features=dataset.features, cache=False).with_format(None)


def _with_bytes(value: Any) -> Any:
    if value is None or value["bytes"] is not None or value["path"] is None:
        return value
    path = Path(value["path"])
    return {**value, "bytes": path.read_bytes(), "path": path.name}


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
