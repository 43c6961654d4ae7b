#include "osp/report/recipe_kind.h"

#include <array>
#include <utility>

namespace osp {
namespace {

using NamePair = std::pair<const char*, const char*>;

constexpr std::array<NamePair, 8> kOptimizers = {{{"adam", "Adam"},
                                                  {"osp", "Muon"},
                                                  {"muon", "Muon on everything"},
                                                  {"adafactor", "Adafactor"},
                                                  {"shampoo", "Shampoo"},
                                                  {"soap", "SOAP"},
                                                  {"kfac", "K-FAC"},
                                                  {"", "optimizer not recorded"}}};
constexpr std::array<NamePair, 5> kNorms = {{{"rms", ""},
                                             {"", ""},
                                             {"single-scale", "SSNorm"},
                                             {"simple", "Simple RMSNorm"},
                                             {"none", "no norms"}}};

template <size_t N>
std::string name_in(const std::array<NamePair, N>& names, const std::string& key) {
  for (const auto& [known, name] : names) {
    if (key == known) return name;
  }
  return key;
}

// A member of a section as text; "" if it is absent or of another type.
std::string text_at(const Json& recipe, const char* section, const char* key) {
  if (!recipe.is_object() || !recipe.contains(section)) return "";
  const Json& values = recipe[section];
  if (!values.is_object() || !values.contains(key) || !values[key].is_string()) return "";
  return values[key].get<std::string>();
}

}  // namespace

bool RecipeKind::outlier_safe() const {
  return known && optimizer == "osp" && norm == "single-scale" && projection &&
         training_bits.empty();
}

RecipeKind recipe_kind(const Json& recipe) {
  RecipeKind kind{.optimizer = text_at(recipe, "optim", "name"),
                  .norm = text_at(recipe, "model", "norm"),
                  .training_bits = text_at(recipe, "qat", "bits")};
  kind.known = !kind.optimizer.empty();
  const std::string routes = text_at(recipe, "optim", "routes");
  if (!routes.empty()) kind.optimizer += " with " + routes;
  if (kind.training_bits == "16-16-16") kind.training_bits.clear();
  if (recipe.is_object() && recipe.contains("model") && recipe["model"].is_object()) {
    const auto found = recipe["model"].find("embedding_projection");
    kind.projection = found != recipe["model"].end() && found->is_boolean() && found->get<bool>();
  }
  return kind;
}

std::string kind_name(const RecipeKind& kind) {
  if (!kind.known) return "";
  if (kind.outlier_safe()) return "OSP";
  std::string name = name_in(kOptimizers, kind.optimizer);
  const std::string norm = name_in(kNorms, kind.norm);
  if (!norm.empty()) name += " + " + norm;
  if (kind.projection) name += " + EmbProj";
  if (!kind.training_bits.empty()) name += ", trained at " + kind.training_bits;
  return name;
}

}  // namespace osp
