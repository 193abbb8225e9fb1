// Whole steps of a tiny model: a row's logits do not depend on the batch, the threads, the chunks or the instruction set.
#include "check.hpp"
#include "graph/step.hpp"
#include "quant/encode.hpp"
#include "simd/cpu.hpp"

using namespace martlet;
using check::same;

namespace {

struct Tiny {
  std::shared_ptr<Model> model;
  std::vector<float> table;
  std::vector<float> angles;

  explicit Tiny(Kind kind, uint32_t seed = 7) {
    Arch a;
    a.vocab_size = 50, a.hidden_size = 64, a.intermediate_size = 96;
    a.num_attention_heads = 4, a.num_key_value_heads = 2, a.head_dim = 16;
    a.layers = {{0, 0}, {0, 20}};
    a.rotated = {16}, a.attention_factors = {1.0f}, a.score_scale = 0.25f;
    model = std::make_shared<Model>(a);
    check::Random random(seed);
    auto matrix = [&](const std::string& name, int n, int k) {
      auto packed = std::make_shared<Packed>(make_packed(kind, n, k));
      for (int r = 0; r < n; ++r) {
        std::vector<float> row = random.numbers(size_t(k));
        if (kind == Kind::F32) {
          pack_row(*packed, r, reinterpret_cast<const uint8_t*>(row.data()));
        } else {
          std::vector<uint8_t> blocks(size_t(k) / kBlock * info(kind).source_bytes);
          encode_row(kind, row.data(), k, blocks.data());
          pack_row(*packed, r, blocks.data());
        }
      }
      model->set_matrix(name, packed);
    };
    for (int i = 0; i < 2; ++i) {
      std::string p = "model.layers." + std::to_string(i) + ".";
      matrix(p + "self_attn.q_proj.weight", 64, 64), matrix(p + "self_attn.k_proj.weight", 32, 64);
      matrix(p + "self_attn.v_proj.weight", 32, 64), matrix(p + "self_attn.o_proj.weight", 64, 64);
      matrix(p + "mlp.gate_proj.weight", 96, 64), matrix(p + "mlp.up_proj.weight", 96, 64);
      matrix(p + "mlp.down_proj.weight", 64, 96);
      for (const char* norm : {"input_layernorm.weight", "post_attention_layernorm.weight"})
        model->set_vector(p + norm, Vector(64, 1.0f));
    }
    matrix("lm_head.weight", 50, 64);
    model->set_vector("model.norm.weight", Vector(64, 1.0f));
    table = random.numbers(50 * 64);
    model->set_table("model.embed_tokens.weight",
                     {Kind::F32, reinterpret_cast<const uint8_t*>(table.data()), 50, 64, 64 * sizeof(float)});
    model->check();
    for (int i = 0; i < 8; ++i) angles.push_back(1.0f / float(1 << i));
  }
};

struct Run {
  Engine engine;
  const float* tables[1];
  Run(const Tiny& tiny, const char* isa, int threads, KvDtype dtype = KvDtype::F16, int64_t pages = 0)
      : engine(tiny.model, find_kernels(isa), threads, dtype, pages), tables{tiny.angles.data()} {}

  std::vector<std::vector<float>> step(const std::vector<std::pair<int, std::vector<int32_t>>>& batch) {
    std::vector<RowStep> rows;
    for (auto& [sequence, tokens] : batch) rows.push_back({sequence, tokens, tables, false});
    std::vector<float> logits(batch.size() * 50);
    engine.step(rows, logits.data());
    std::vector<std::vector<float>> out;
    for (size_t r = 0; r < batch.size(); ++r) out.emplace_back(logits.begin() + long(50 * r), logits.begin() + long(50 * r + 50));
    return out;
  }
};

std::vector<int32_t> prompt(int length, int seed) {
  check::Random random{uint32_t(seed)};
  std::vector<int32_t> ids;
  for (int i = 0; i < length; ++i) ids.push_back(random.below(50));
  return ids;
}

}  // namespace

TEST(logits_depend_on_the_row_alone) {
  for (auto [kind, dtype] : {std::pair{Kind::F32, KvDtype::F32}, {Kind::F32, KvDtype::F16}, {Kind::Q8_0, KvDtype::F16},
                             {Kind::Q4_0, KvDtype::BF16}}) {
    Tiny tiny(kind);
    std::vector<int32_t> ids = prompt(90, 1), others = prompt(33, 2);
    Run alone(tiny, "scalar", 1, dtype);
    std::vector<float> want = alone.step({{alone.engine.cache().add(), ids}})[0];
    for (const InstructionSet& set : instruction_sets()) {
      if (!set.is_usable) continue;
      for (int threads : {1, 3}) {
        Run run(tiny, set.name, threads, dtype);
        Cache& cache = run.engine.cache();
        int row = cache.add(), other = cache.add(), cut = cache.add();
        CHECK(same(run.step({{other, others}, {row, ids}})[1], want));
        std::vector<int32_t> head(ids.begin(), ids.begin() + 41), tail(ids.begin() + 41, ids.end());
        run.step({{cut, head}});
        int forked = cache.fork(cut);
        auto got = run.step({{cut, tail}, {forked, tail}, {other, {7}}});
        CHECK(same(got[0], want) && same(got[1], want));
      }
    }
  }
}

TEST(a_step_without_room_changes_nothing) {
  Tiny tiny(Kind::Q8_0);
  Run run(tiny, "", 2, KvDtype::F16, 3);
  int row = run.engine.cache().add();
  std::vector<float> want = run.step({{row, prompt(20, 3)}})[0];
  CHECK_THROWS(run.step({{row, prompt(40, 4)}}), "bad_alloc");
  CHECK(run.engine.cache().length(row) == 20);
  run.engine.cache().truncate(row, 0);
  CHECK(same(run.step({{row, prompt(20, 3)}})[0], want));
}

// One layer's values grow beyond float16: the step is refused with the number and its place, and rows are as before.
TEST(a_value_that_float16_does_not_hold_is_refused) {
  Tiny tiny(Kind::F32);
  auto values = std::make_shared<Packed>(make_packed(Kind::F32, 32, 64));
  for (int r = 0; r < 32; ++r) {
    std::vector<float> row(64, r == 20 ? 40000.0f : 0.5f);
    pack_row(*values, r, reinterpret_cast<const uint8_t*>(row.data()));
  }
  tiny.model->set_matrix("model.layers.1.self_attn.v_proj.weight", values);
  std::vector<int32_t> ids = prompt(20, 3);
  std::vector<float> wanted;
  for (int threads : {1, 3}) {
    Run wide(tiny, "", threads, KvDtype::F32), run(tiny, "", threads, KvDtype::F16);
    std::vector<float> want = wide.step({{wide.engine.cache().add(), ids}})[0];
    CHECK(want[0] == want[0] && (wanted.empty() || same(want, wanted)));
    wanted = want;
    int row = run.engine.cache().add();
    CHECK_THROWS(run.step({{row, ids}}), "in layer 1 at position");
    CHECK(run.engine.cache().length(row) == 0 && run.engine.cache().pages_held() == 0);
    Run brain(tiny, "", threads, KvDtype::BF16);
    CHECK(brain.step({{brain.engine.cache().add(), ids}})[0][0] != 0.0f);
  }
}

TEST(weights_that_contradict_the_model_are_refused) {
  Tiny tiny(Kind::F32);
  Model& m = *tiny.model;
  CHECK_THROWS(m.set_matrix("lm_head.weight", std::make_shared<Packed>(make_packed(Kind::F32, 50, 65))), "50 x 64");
  CHECK_THROWS(m.set_matrix("lm_head.wait", std::make_shared<Packed>(make_packed(Kind::F32, 50, 64))), "no matrix");
  CHECK_THROWS(m.set_vector("model.norm.weight", Vector(63, 1.0f)), "64 numbers");
  CHECK_THROWS(m.set_vector("model.norm.weight", Vector(64, 0.0f / 0.0f)), "NaN");
  CHECK_THROWS(m.set_table("model.embed_tokens.weight", {Kind::F32, nullptr, 50, 63, 4}), "50 x 64");
  CHECK_THROWS(Model(m.arch).check(), "is missing");
}
