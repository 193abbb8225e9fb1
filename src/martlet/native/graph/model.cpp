#include "graph/model.hpp"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <set>
#include <stdexcept>

namespace martlet {

namespace {

const std::vector<const char*>& norm_names(Placement placement) {
  static const std::vector<const char*> sandwich = {"input_layernorm", "post_attention_layernorm",
                                                    "pre_feedforward_layernorm", "post_feedforward_layernorm"};
  static const std::vector<const char*> output = {"post_attention_layernorm", "post_feedforward_layernorm"};
  static const std::vector<const char*> shared = {"input_layernorm"};
  static const std::vector<const char*> plain = {"input_layernorm", "post_attention_layernorm"};
  switch (placement) {
    case Placement::SANDWICH: return sandwich;
    case Placement::OUTPUT: return output;
    case Placement::PARALLEL_SHARED: return shared;
    default: return plain;
  }
}

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

}  // namespace

void Table::read(int row, uint8_t* to) const {
  if (data) std::memcpy(to, data + size_t(row) * row_bytes, row_bytes);
  for (size_t done = 0; file && done < row_bytes;) {
    ssize_t got = pread(*file, to + done, row_bytes - done, offset + int64_t(row) * int64_t(row_bytes) + int64_t(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse(name + " cannot be read: " + std::strerror(errno));
    if (got == 0) refuse(name + ": its file has become shorter since it was opened");
    done += size_t(got);
  }
  if (!is_finite_row(kind, to, columns)) refuse(name + ": row " + std::to_string(row) + " has NaN or infinity");
}

Model::Model(Arch a) : arch(std::move(a)), layers(arch.layers.size()) {
  if (arch.head_dim > kMaxHeadDim) refuse("head_dim must be at most " + std::to_string(kMaxHeadDim));
  slots_ = make_slots();
}

Model::Slots Model::make_slots() {
  Slots s;
  const Arch& a = arch;
  auto linear = [&](const std::string& name, Linear& to, int n, int k) {
    s.matrices[name + ".weight"] = {&to, {n, k}};
    s.vectors[name + ".bias"] = {&to.bias, n};
  };
  auto norm = [&](const std::string& name, Norm& to) {
    s.vectors[name + ".weight"] = {&to.weight, a.hidden_size};
    if (a.norm == NormKind::LAYER) s.vectors[name + ".bias"] = {&to.bias, a.hidden_size};
  };
  int width = a.embedding_size ? a.embedding_size : a.hidden_size;
  linear("lm_head", head, a.vocab_size, width);
  if (a.embedding_size) {
    linear("model.project_in", project_in, a.hidden_size, a.embedding_size);
    linear("model.project_out", project_out, a.embedding_size, a.hidden_size);
  }
  if (a.final_norm) norm("model.norm", final_norm);
  for (size_t i = 0; i < layers.size(); ++i) {
    std::string prefix = "model.layers." + std::to_string(i) + ".";
    LayerWeights& w = layers[i];
    linear(prefix + "self_attn.q_proj", w.q, a.query_size(), a.hidden_size);
    linear(prefix + "self_attn.k_proj", w.k, a.key_value_size(), a.hidden_size);
    linear(prefix + "self_attn.v_proj", w.v, a.key_value_size(), a.hidden_size);
    linear(prefix + "self_attn.o_proj", w.o, a.hidden_size, a.query_size());
    if (a.gated) linear(prefix + "mlp.gate_proj", w.gate, a.intermediate_size, a.hidden_size);
    linear(prefix + "mlp.up_proj", w.up, a.intermediate_size, a.hidden_size);
    linear(prefix + "mlp.down_proj", w.down, a.hidden_size, a.intermediate_size);
    if (a.qk_norm != QKNorm::NONE) {
      bool full = a.qk_norm == QKNorm::FULL;
      s.vectors[prefix + "self_attn.q_norm.weight"] = {&w.q_norm, full ? a.query_size() : a.head_dim};
      s.vectors[prefix + "self_attn.k_norm.weight"] = {&w.k_norm, full ? a.key_value_size() : a.head_dim};
    }
    const auto& names = norm_names(a.placement);
    for (size_t j = 0; j < names.size(); ++j) norm(prefix + names[j], w.norms[j]);
  }
  return s;
}

void Model::set_matrix(const std::string& name, std::shared_ptr<Packed> packed) {
  const Slots& s = slots();
  auto found = s.matrices.find(name);
  if (found == s.matrices.end()) refuse("there is no matrix " + name);
  auto [linear, shape] = found->second;
  if (packed->matrix.n != shape.first || packed->matrix.k != shape.second)
    refuse(name + " must be " + std::to_string(shape.first) + " x " + std::to_string(shape.second) + "; found " +
           std::to_string(packed->matrix.n) + " x " + std::to_string(packed->matrix.k));
  linear->packed = std::move(packed);
}

void Model::set_vector(const std::string& name, Vector values) {
  const Slots& s = slots();
  auto found = s.vectors.find(name);
  if (found == s.vectors.end()) refuse("there is no vector " + name);
  if (int(values.size()) != found->second.second)
    refuse(name + " must have " + std::to_string(found->second.second) + " numbers; found " +
           std::to_string(values.size()));
  for (float v : values)
    if (!std::isfinite(v)) refuse(name + " has NaN or infinity");
  *found->second.first = std::move(values);
}

void Model::set_table(const std::string& name, Table table) {
  int width = arch.embedding_size ? arch.embedding_size : arch.hidden_size;
  bool is_embedding = name == "model.embed_tokens.weight";
  if (!is_embedding && name != "model.embed_positions.weight") refuse("there is no table " + name);
  int rows = is_embedding ? arch.vocab_size : arch.position_table;
  int columns = is_embedding ? width : arch.hidden_size;
  if (table.rows != rows || table.columns != columns)
    refuse(name + " must be " + std::to_string(rows) + " x " + std::to_string(columns));
  table.name = name;
  (is_embedding ? embedding : positions) = std::move(table);
}

void Model::check() const {
  std::string missing;
  const Slots& s = slots();
  for (auto& [name, slot] : s.matrices)
    if (!slot.first->packed && missing.empty()) missing = name;
  for (auto& [name, slot] : s.vectors) {
    bool is_bias_of_matrix = name.size() > 5 && name.substr(name.size() - 5) == ".bias" &&
                             s.matrices.count(name.substr(0, name.size() - 5) + ".weight");
    if (slot.first->empty() && !is_bias_of_matrix && missing.empty()) missing = name;
  }
  if (!embedding.is_set()) missing = "model.embed_tokens.weight";
  if (arch.position_table && !positions.is_set()) missing = "model.embed_positions.weight";
  if (!missing.empty()) refuse(missing + " is missing");
}

size_t Model::packed_bytes() const {
  std::set<const Packed*> seen;
  size_t bytes = 0;
  auto count = [&](const Linear& l) {
    if (l.packed && seen.insert(l.packed.get()).second) bytes += l.packed->bytes;
  };
  for (const Linear* l : {&project_in, &project_out, &head}) count(*l);
  for (const LayerWeights& w : layers)
    for (const Linear* l : {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down}) count(*l);
  return bytes;
}

}  // namespace martlet
