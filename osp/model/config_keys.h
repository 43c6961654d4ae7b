// The keys of a config.json, described once for reading and writing: a family's description calls
// one member per key, which either takes the value from the JSON object or puts it there.
//
// Tested by hf_config_test.cpp and tests/python/test_families.py.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/model/config.h"

namespace osp {

// One line of a JSON value for a message, cut where a hostile file would fill the screen.
std::string shown_json(const Json& value);

// The range of a field that ModelConfig::fields visits.
Range model_field_range(const char* field);

// The rotary embedding of a family, as far as rope_parameters do not say it.
struct RopeKeys {
  // The part of each head that is rotated unless a key says so; none: all of it.
  std::optional<double> partial = {};
  double theta = 10000.0;  // where no key says so
  // The family's names of the keys beside rope_parameters.
  const char* theta_key = "rope_theta";
  const char* partial_key = "partial_rotary_factor";
  // original_max_position_embeddings where no key says so; 0: max_position_embeddings.
  int64_t original_context = 0;
  bool longrope_alone = false;  // Phi-3: the types "su" and "yarn" mean "longrope"
  bool query_growth = false;    // Ministral 3: rope_parameters has llama_4_scaling_beta
  // The base of blocks with a window, where the rotary embedding differs by the kind of block, and
  // the key beside rope_parameters that says it ("" if none); no base: it does not.
  std::optional<double> local_theta = {};
  const char* local_key = "";
  int64_t channels = 0;       // those of a head that are rotated, in any case; 0: by the keys
  Json parameters = nullptr;  // rope_parameters where neither these nor rope_scaling are there
};

class ConfigKeys {
 public:
  // Reads from a parsed config.json; `where` begins every message.
  static ConfigKeys reader(const Json& json, const std::string& where);
  // Appends to `out`.
  static ConfigKeys writer(Json& out);

  bool reads() const { return in_ != nullptr; }
  // True if the key is there and not null (reading). Every key that is asked for is one that the
  // family knows.
  bool has(const char* key) const;
  // True if the key is there as null (reading).
  bool is_null(const char* key) const { return reads() && in_->contains(key) && !has(key); }
  // Error(unsupported) for a key about rotation, scale or window that is there, has a value that
  // changes something, and that the family does not know (reading).
  void refuse_unknown() const;

  // A size or number with the range of the field `field` of ModelConfig. A key that is absent takes
  // `absent`; Error(damaged) if there is none, or for a value of another type or out of range.
  void size(const char* key, const char* field, int64_t& value, std::optional<int64_t> absent = {});
  void integer(const char* key, int64_t& value, int64_t low, int64_t absent);
  void number(const char* key, const char* field, double& value, double absent);
  // A positive number; a key that is not there takes `absent`, whatever that is.
  void factor(const char* key, double& value, double absent);
  void flag(const char* key, bool& value, std::optional<bool> absent);
  void text(const char* key, std::string& value, const std::vector<std::string>& known,
            const std::string& absent);
  // A positive number, or null for 0; a key that is not there takes `absent`.
  void optional_number(const char* key, double& value, double absent = 0.0);
  // A window of attention: null is 0 (none), a key that is not there takes `absent`.
  void window(const char* key, int64_t& value, int64_t absent);
  // Windows of the layers that layer_types (which is there) calls sliding_attention; `window` is
  // their size, 0 for none.
  void windows_by_layer(int64_t window, ModelConfig& config) const;
  // layer_types, if it is there, must repeat what config.window and first_window_layer say.
  void layer_types(const ModelConfig& config) const;
  // layer_types as written for a model whose windows no other key says.
  void write_layer_types(const ModelConfig& config);
  // sliding_window (absent_window where it is absent) and layer_types; where that is absent, all
  // layers have the window except every full_interval-th, 0: except none.
  void sliding_layers(ModelConfig& config, int64_t absent_window, int64_t full_interval);
  // The blocks without a rotary embedding: no_rope_layers has 1 for each that has it and 0 for each
  // that has none; where it is absent, every no_rope_layer_interval-th (4 if absent) has none.
  void unrotated_layers(ModelConfig& config);
  // Numbers of blocks, ascending; not written if there are none.
  void layers(const char* key, const ModelConfig& config, std::vector<int64_t>& value);
  // The activation by its name in config.json; Error(unsupported) lists those that osp supports.
  void activation(const char* key, std::string& value, const std::string& absent);
  // A key that osp computes with one value only; absent or null is that value unless `absent` says
  // what transformers takes then. Error(unsupported) for another value.
  void fixed(const char* key, const Json& only, const Json& absent = nullptr);
  // The rotary embedding: rope_parameters (transformers 5), or rope_scaling, which replaces it as a
  // whole; what these lack comes from rope_theta, partial_rotary_factor (or a family's names for
  // them, which the common ones must not contradict) and original_max_position_embeddings beside
  // the other keys. The last has priority, as in transformers.
  void rope(ModelConfig& config, const RopeKeys& family = {});

  [[noreturn]] void unsupported(const std::string& key, const std::string& value,
                                const std::string& osp_has) const;

 private:
  void read_rope(ModelConfig& config, const RopeKeys& family) const;
  void read_local_rope(ModelConfig& config, const RopeKeys& family) const;
  void read_rotated_part(const Json& rope, ModelConfig& config, const RopeKeys& family) const;
  RopeScaling read_scaling(const Json& rope, const std::string& blamed, const ModelConfig& config,
                           const RopeKeys& family) const;
  std::vector<double> read_factors(const Json& rope, const std::string& blamed, const char* key,
                                   const ModelConfig& config) const;
  double checked(const std::string& key, double value, double low, double high) const;

  const Json* in_ = nullptr;
  Json* out_ = nullptr;
  std::string where_;
  mutable std::set<std::string> known_;  // keys that were asked for
};

}  // namespace osp
