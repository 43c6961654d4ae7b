// Feeds arbitrary bytes to the reader of recipes (TOML). An accepted recipe that resolves must
// equal what is read from the JSON that it is stored as.
#include <cstdint>
#include <string>

#include "fuzz/memory_file.h"
#include "osp/base/error.h"
#include "osp/train/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  osp::Recipe recipe;
  try {
    recipe = osp::load_recipe(osp::fuzz::memory_file("recipe.toml", data, size), {});
    recipe = osp::resolved_recipe(recipe, 64);
  } catch (const osp::Error&) {
    return 0;
  }
  const osp::Json stored = osp::parse_json(osp::recipe_json(recipe).dump(), "recipe.json");
  OSP_CHECK(osp::recipe_differences(stored, recipe).empty(), "{}",
            osp::recipe_differences(stored, recipe));
  OSP_CHECK(osp::recipe_hash(recipe).size() == 64, "hash");
  return 0;
}
