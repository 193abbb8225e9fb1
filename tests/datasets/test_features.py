"""Features against Hugging Face's: the same JSON, the same Arrow schema, each library's files read by the other."""

import datasets as hf
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.datasets import Audio, ClassLabel, Features, List, Sequence, Value
from martlet.datasets.dtypes import arrow_type, dtype_of
from martlet.datasets.features import aligned
from martlet.errors import ArgumentError, DatasetError, FeatureError

DTYPES = [
    *("null", "bool", "int8", "int64", "uint16", "float16", "float32", "float64", "string", "large_string", "binary"),
    *("large_binary", "date32", "date64", "time32[ms]", "time64[us]", "timestamp[ns]", "timestamp[us, tz=UTC]"),
    *("duration[s]", "decimal128(10, 2)", "decimal256(40, -4)", "string_view", "binary_view"),
]
names = st.text("abc_ é", min_size=1, max_size=4)
leaves = st.one_of(
    st.sampled_from(DTYPES).map(lambda dtype: {"dtype": dtype, "_type": "Value"}),
    st.lists(names, min_size=1, max_size=3, unique=True).map(lambda names: {"names": names, "_type": "ClassLabel"}),
    st.sampled_from([{"_type": "Image"}, {"sampling_rate": 16000, "_type": "Audio"}, {"_type": "Json"}]),
    st.just({"shape": [None, 3], "dtype": "int32", "_type": "Array2D"}),
    st.just({"languages": ["de", "en"], "_type": "Translation"}),
)
kinds = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(lambda kind: {"feature": kind, "_type": "List"}),
        inner.map(lambda kind: {"feature": kind, "length": 2, "_type": "List"}),
        inner.map(lambda kind: {"feature": kind, "_type": "LargeList"}),
        st.dictionaries(names, inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


def through_ipc(schema: pa.Schema) -> pa.Schema:
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, schema).close()
    return pa.ipc.open_stream(sink.getvalue()).schema


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(names, kinds, min_size=1, max_size=4))
def test_schemas_are_hugging_faces(written):
    ours, theirs = Features.from_dict(written), hf.Features.from_dict(written)
    assert ours.arrow_schema.metadata == theirs.arrow_schema.metadata
    assert repr(ours) == repr(theirs)
    assert hf.Features.from_arrow_schema(through_ipc(ours.arrow_schema)) == theirs
    assert Features.from_arrow_schema(theirs.arrow_schema) == ours
    assert Features.from_arrow_schema(through_ipc(theirs.arrow_schema)) == ours
    assert Features.from_dict(ours.to_dict()) == ours


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_go_both_ways(dtype):
    assert dtype_of(arrow_type(dtype)) == dtype
    assert arrow_type(dtype) == hf.Value(dtype)()


def test_a_list_of_one_kind_is_a_list():
    assert Features({"a": [Value("int8")]}) == Features({"a": List(Value("int8"))})
    assert Sequence({"x": Value("int8")}) == {"x": List(Value("int8"))}
    with pytest.raises(ArgumentError, match="one kind"):
        Features({"a": [Value("int8"), Value("int8")]})
    with pytest.raises(ArgumentError, match="must be a kind"):
        Features({"a": "int8"})


def test_labels():
    label = ClassLabel(names=["neg", "pos"])
    assert label.str2int(["pos", " neg", "1", "-1"]) == [1, 0, 1, -1]
    assert label.int2str(1) == "pos"
    assert label.cast_storage(pa.array(["pos", None, "neg"])).to_pylist() == [1, None, 0]
    for wrong in (lambda: label.str2int("none"), lambda: label.int2str(2), lambda: label.encode_example(2)):
        with pytest.raises(FeatureError, match="found"):
            wrong()
    with pytest.raises(ArgumentError, match="once"):
        ClassLabel(names=["a", "a"])


def test_rows_are_encoded_and_decoded():
    features = Features(
        {"label": ClassLabel(names=["no", "yes"]), "tags": [Value("string")], "n": {"x": Value("float32")}}
    )
    row = features.encode_example({"label": "yes", "tags": (1, "b"), "n": {"x": "2.5"}})
    assert row == {"label": 1, "tags": ["1", "b"], "n": {"x": 2.5}}
    assert features.encode_example({"label": None})["tags"] is None
    with pytest.raises(FeatureError):
        features.encode_example({"label": 0, "tags": "abc"})
    with pytest.raises(FeatureError):
        features.encode_batch({"label": [0]})


def test_features_align_or_say_why_not():
    whole = aligned([Features({"a": Value("null")}), Features({"a": Value("int8"), "b": [Value("null")]})])
    assert whole == Features({"a": Value("int8"), "b": [Value("null")]})
    with pytest.raises(FeatureError, match="column 'a'"):
        aligned([Features({"a": Value("int8")}), Features({"a": Value("string")})])


def test_flattening_and_order_are_hugging_faces():
    written = {"a": {"b": {"c": {"dtype": "int8", "_type": "Value"}}}, "z": {"_type": "Image"}}
    assert Features.from_dict(written).flatten().to_dict() == hf.Features.from_dict(written).flatten().to_dict()
    one = Features({"r": [{"a": Value("string"), "b": Value("int8")}]})
    other = Features({"r": [{"b": Value("int8"), "a": Value("string")}]})
    assert one.reorder_fields_as(other).type == other.type
    with pytest.raises(DatasetError):
        one.reorder_fields_as(Features({"r": Value("int8")}))


def test_sound_that_is_not_ours_is_refused():
    with pytest.raises(ArgumentError):
        Audio(num_channels=3)
