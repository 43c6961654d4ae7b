// The document of `osp quantize`: a run for each model, method and seed. With `--method all --out`
// it is kept in a file after every run, so that a stopped call is resumed without doing one twice.
//
// Tested by tests/python/test_quantize_all.py.
#pragma once

#include <cstdint>
#include <string>

#include "osp/base/json.h"

namespace osp {

class QuantizeRuns {
 public:
  // `header`: everything that all runs have in common; a file that is resumed must have the same
  // "call". `path`: where the document is kept, "" for nowhere. Error(usage) for a file of another
  // call.
  QuantizeRuns(Json header, const std::string& path, bool resume);

  // The run of an earlier call, null if there is none.
  const Json* find(const std::string& model, const std::string& method, uint64_t seed) const;
  void add(Json run);
  const Json& json() const { return json_; }

 private:
  std::string path_;
  Json json_;
};

}  // namespace osp
