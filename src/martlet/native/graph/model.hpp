// A model as the engine holds it: what an Arch says, and its weights packed. Filled by name, then checked whole.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/table.hpp"
#include "quant/pack.hpp"

namespace martlet {

// The Python Arch, field by field; the same names.
enum class Placement : uint8_t { PRE, POST, OUTPUT, SANDWICH, PARALLEL, PARALLEL_SHARED };
enum class QKNorm : uint8_t { NONE, HEAD, FULL };

struct Layer {
  int rope = -1;  // which of the step's frequency tables; -1: no rotation
  int window = 0;
};

struct Arch {
  int vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  int num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  std::vector<Layer> layers;
  std::vector<int> rotated;               // dimensions that turn, of each rope
  std::vector<float> attention_factors;   // of each rope
  NormKind norm = NormKind::RMS;
  float norm_eps = 1e-6f;
  Placement placement = Placement::PRE;
  bool final_norm = true;
  QKNorm qk_norm = QKNorm::NONE;
  int position_table = 0, position_offset = 0, embedding_size = 0;
  float embed_scale = 1.0f, score_scale = 1.0f, attn_softcap = 0.0f;
  Act activation = Act::SILU;
  bool gated = true;
  float residual_scale = 1.0f, logit_scale = 1.0f, logit_softcap = 0.0f;

  int query_size() const { return num_attention_heads * head_dim; }
  int key_value_size() const { return num_key_value_heads * head_dim; }
  int num_norms() const {
    return placement == Placement::SANDWICH ? 4 : placement == Placement::PARALLEL_SHARED ? 1 : 2;
  }
};

// Rows as files hold them, read one at a time: from memory, kept alive by whoever made the table, or from an open file.
// Not through a map of it: a file that has become shorter would end the process with SIGBUS.
struct Table {
  Kind kind = Kind::F32;
  const uint8_t* data = nullptr;
  int rows = 0, columns = 0;
  size_t row_bytes = 0;
  std::shared_ptr<const int> file = nullptr;  // a descriptor, closed with the last table
  int64_t offset = 0;
  std::string name = {};

  bool is_set() const { return data || file; }
  // One row's bytes. Throws std::invalid_argument if the file has become shorter or the row has NaN or infinity.
  void read(int row, uint8_t* to) const;
};

using Vector = std::vector<float>;

struct Linear {
  std::shared_ptr<Packed> packed;
  Vector bias;  // empty: none
  const Matrix& matrix() const { return packed->matrix; }
};

struct Norm {
  Vector weight, bias;
};

struct LayerWeights {
  Linear q, k, v, o, gate, up, down;
  Vector q_norm, k_norm;
  Norm norms[4];
};

struct Model {
  Arch arch;
  Table embedding, positions;
  Linear project_in, project_out, head;
  std::vector<LayerWeights> layers;
  Norm final_norm;

  explicit Model(Arch a);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // By the names of martlet.arch.tensors. Throws std::invalid_argument for a name or shape the Arch does not have.
  void set_matrix(const std::string& name, std::shared_ptr<Packed> packed);
  void set_vector(const std::string& name, Vector values);
  void set_table(const std::string& name, Table table);

  // Throws std::invalid_argument naming what is missing, or a number that is NaN or infinite.
  void check() const;
  size_t packed_bytes() const;

 private:
  struct Slots {
    std::map<std::string, std::pair<Linear*, std::pair<int, int>>> matrices;
    std::map<std::string, std::pair<Vector*, int>> vectors;
  };
  const Slots& slots() const { return slots_; }
  Slots make_slots();
  Slots slots_;  // into this object, which is never moved
};

}  // namespace martlet
