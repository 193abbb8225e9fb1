"""The extension's own door, fuzzed: any arguments give a Python exception or a right answer, never a crash."""

import contextlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from martlet import engine

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")
if engine.is_built():
    from martlet.engine.extension import native

REFUSALS = (ValueError, TypeError, IndexError, KeyError, MemoryError, RuntimeError, OverflowError)
ARCH = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "norm_eps": 1e-6,
    "final_norm": True,
    "position_table": 0,
    "position_offset": 0,
    "embedding_size": 0,
    "score_scale": 0.3,
    "attn_softcap": 0.0,
    "gated": True,
    "residual_scale": 1.0,
    "logit_scale": 1.0,
    "logit_softcap": 0.0,
    "norm": "rms",
    "placement": "pre",
    "qk_norm": "none",
    "activation": "silu",
    "embed_scale": 1.0,
    "layer_ropes": [0, -1],
    "layer_windows": [0, 5],
    "rotated": [8],
    "attention_factors": [1.0],
}
WORDS = st.sampled_from(["", "F32", "Q8_0", "Q4_0", "Q6_K", "BF16", "rms", "scalar", "nonsense", "lm_head.weight"])
NUMBERS = st.integers(-3, 40) | st.sampled_from([2**31 - 1, -(2**31), 2**40, -1])
TYPES = [np.uint8, np.float32, np.int32, np.int64, np.float64]


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 70), min_size=1, max_size=2))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 34, shape)
    array = values.astype(draw(st.sampled_from(TYPES)))
    return array[::-1] if draw(st.integers(0, 9)) == 0 else array


ANYTHING = st.one_of(
    st.none(), WORDS, NUMBERS, st.floats(), arrays(), st.lists(arrays(), max_size=2), st.booleans(), st.just(ARCH)
)


def make_model():
    rng = np.random.default_rng(0)
    model = native().Model(ARCH)

    def matrix(rows, columns):
        values = rng.normal(0, 0.2, (rows, columns)).astype(np.float32)
        return native().pack("F32", values.view(np.uint8).reshape(-1), rows, columns, None, 1)

    table = rng.normal(0, 1, (32, 32)).astype(np.float32)
    model.set_table("model.embed_tokens.weight", "F32", table.view(np.uint8).reshape(-1), 32, 32)
    for layer in range(2):
        name = f"model.layers.{layer}."
        for part, rows, columns in (
            ("self_attn.q_proj", 32, 32),
            ("self_attn.k_proj", 16, 32),
            ("self_attn.v_proj", 16, 32),
            ("self_attn.o_proj", 32, 32),
            ("mlp.gate_proj", 48, 32),
            ("mlp.up_proj", 48, 32),
            ("mlp.down_proj", 32, 48),
        ):
            model.set_matrix(f"{name}{part}.weight", matrix(rows, columns))
        for part in ("input_layernorm", "post_attention_layernorm"):
            model.set_vector(f"{name}{part}.weight", np.ones(32, np.float32))
    model.set_vector("model.norm.weight", np.ones(32, np.float32))
    model.set_matrix("lm_head.weight", matrix(32, 32))
    model.check()
    return model


def call(function, arguments):
    with contextlib.suppress(*REFUSALS):
        function(*arguments)


fuzz = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@fuzz
@given(st.data())
def test_every_function_with_anything(data):
    names = [name for name in dir(native()) if callable(getattr(native(), name)) and not name.startswith("_")]
    slow = {"close", "measure_read", "measure_peaks"}  # `close` ends all; the others' times are theirs to test
    function = getattr(native(), data.draw(st.sampled_from(sorted(set(names) - slow))))
    call(function, data.draw(st.lists(ANYTHING, max_size=6)))


@fuzz
@given(st.data())
def test_every_method_with_anything(data):
    model = make_model()
    made = [
        model,
        native().Engine(
            model, "", 1, data.draw(st.sampled_from([0, 3])), data.draw(st.sampled_from(list(engine.KV_DTYPES)))
        ),
        native().Chooser(32),
        native().Kernels("scalar"),
        native().pack("F32", np.zeros(64, np.uint8), 4, 4, None, 1),
        native().make_packed("Q8_0", 3, 32),
        native().Filling(),
    ]
    for _ in range(data.draw(st.integers(1, 8))):
        one = data.draw(st.sampled_from(made))
        names = [name for name in dir(one) if not name.startswith("_") and callable(getattr(one, name))]
        call(getattr(one, data.draw(st.sampled_from(names))), data.draw(st.lists(ANYTHING, max_size=7)))


@fuzz
@given(st.data())
def test_steps_of_nearly_right_arguments(data):
    threads, pages = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([0, 2, 5]))
    made = native().Engine(make_model(), "", threads, pages, data.draw(st.sampled_from(list(engine.KV_DTYPES))))
    rows = [made.add() for _ in range(3)]
    for _ in range(data.draw(st.integers(1, 6))):
        count = data.draw(st.integers(0, 3))
        chosen = data.draw(st.lists(st.sampled_from([*rows, 99, -1]), min_size=count, max_size=count))
        counts = data.draw(st.lists(st.integers(-1, 20), min_size=count, max_size=count))
        num_tokens = max(0, sum(counts)) + data.draw(st.sampled_from([0, 0, 0, 1]))
        tokens = np.random.default_rng(0).integers(0, data.draw(st.sampled_from([32, 32, 33])), num_tokens)
        numbers, tokens = [np.array(each, np.int32) for each in (chosen, counts)], tokens.astype(np.int32)
        angles = [np.full((count, 4), data.draw(st.sampled_from([0.1, np.nan, 1e30])), np.float32)]
        logits = np.empty((data.draw(st.sampled_from([count, num_tokens])), 32), np.float32)
        if data.draw(st.booleans()):
            call(made.step, [*numbers, tokens, angles, data.draw(st.booleans()), logits])
        else:
            choosers = [native().Chooser(data.draw(st.sampled_from([32, 32, 32, 31]))) for _ in range(count)]
            call(made.advance, [*numbers, tokens, angles, choosers, data.draw(st.integers(-1, 5))])
        call(data.draw(st.sampled_from([made.truncate, made.pages_needed])), [rows[0], data.draw(NUMBERS)])
        if data.draw(st.integers(0, 3)) == 0:
            call(made.fork, [data.draw(st.sampled_from([*rows, 77]))])
        assert made.pages_held >= 0


def test_a_model_in_use_is_not_changed():
    model = make_model()
    held = native().Engine(model, "", 1, 0)
    with pytest.raises(ValueError, match="an engine has the model"):
        model.set_vector("model.norm.weight", np.ones(32, np.float32))
    del held
    model.set_vector("model.norm.weight", np.ones(32, np.float32))


def test_a_chooser_for_two():
    made, chooser = native().Engine(make_model(), "", 1, 0), native().Chooser(32)
    rows = np.array([made.add(), made.add()], np.int32)
    angles = [np.ones((2, 4), np.float32)]
    with pytest.raises(ValueError, match="cannot choose for two at once"):
        made.advance(rows, np.ones(2, np.int32), np.ones(2, np.int32), angles, [chooser, chooser], 2)
    made.advance(rows[:1], np.ones(1, np.int32), np.ones(1, np.int32), [angles[0][:1]], [chooser], 2)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_the_interpreter_ends_while_threads_generate(num_threads):
    code = f"""if True:
        import sys, threading, time
        sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
        from test_boundary import make_model, native
        import numpy as np
        made = native().Engine(make_model(), "", {num_threads}, 0)
        begun = threading.Barrier(3)
        def go():
            row, chooser = made.add(), native().Chooser(32, ends=[])
            one = np.array([row], np.int32)
            begun.wait()
            while True:
                made.advance(one, np.ones(1, np.int32), np.ones(1, np.int32), [np.ones((1, 4), np.float32)],
                             [chooser], 50)
                made.truncate(row, 5)
        for _ in range(2):
            threading.Thread(target=go, daemon=True).start()
        begun.wait()
        time.sleep(0.05)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
