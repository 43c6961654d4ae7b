// The kind of a trained model, which tells it from others: optimizer, norm and embedding
// projection, read from the recipe. A folder's name says nothing. Tested by claims_test.cpp.
#pragma once

#include <string>

#include "osp/base/json.h"

namespace osp {

struct RecipeKind {
  bool known = false;         // false for a model without recipe
  std::string optimizer;      // optim.name, with routes if the recipe has any
  std::string norm;           // model.norm
  bool projection = false;    // model.embedding_projection
  std::string training_bits;  // qat.bits unless 16-16-16
  bool outlier_safe() const;  // the paper's method whole: Muon, SSNorm and EmbProj
};

RecipeKind recipe_kind(const Json& recipe);

// "OSP", "Adam", "Muon + SSNorm"; "" for an unknown one.
std::string kind_name(const RecipeKind& kind);

}  // namespace osp
