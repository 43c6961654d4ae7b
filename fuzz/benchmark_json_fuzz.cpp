// Feeds arbitrary JSON lines to the reader of benchmark files and to the accessors of its fields:
// each gives a value of its type or an Error.
#include <cstdint>
#include <string>
#include <vector>

#include "fuzz/accepted.h"
#include "fuzz/json_mutator.h"
#include "fuzz/memory_file.h"
#include "osp/base/error.h"
#include "osp/data/benchmark_files.h"

namespace {

constexpr const char* kKeys[] = {"question",       "choices", "text",   "label", "answerKey",
                                 "answer",         "endings", "ctx",    "ctx_a", "ctx_b",
                                 "activity_label", "goal",    "sol1",   "sol2",  "sentence",
                                 "option1",        "option2", "passage"};

// Calls an accessor; an Error is an answer as well.
template <class Call>
void tried(const Call& call) {
  try {
    call();
  } catch (const osp::Error&) {
  }
}

void look_at(const osp::BenchmarkRecord& record) {
  const std::vector<std::string> labels = {"A", "B", "1", "2"};
  for (const std::string name : kKeys) {
    OSP_CHECK(osp::has_field(record, name) == record.fields.contains(name), "{}", name);
    tried([&] { osp::string_field(record, name); });
    tried([&] { osp::strings_field(record, name); });
    tried([&] { osp::strings_field(record, name, "text"); });
    tried([&] {
      const size_t index = osp::label_index(record, name, osp::string_field(record, name), labels);
      OSP_CHECK(index < labels.size(), "label {}", index);
    });
    tried([&] {
      const int64_t number = osp::number_field(record, name);
      OSP_CHECK(osp::checked_label(record, name, number, 1, 4) < 4, "label {}", number);
    });
  }
}

}  // namespace

OSP_JSON_MUTATOR(kKeys)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string path = osp::fuzz::memory_file("test.jsonl", data, size);
  tried([&] {
    osp::read_json_lines(path, {std::begin(kKeys), std::end(kKeys)},
                         [](const osp::BenchmarkRecord& record) {
                           look_at(record);
                           return true;
                         });
    osp::fuzz::accepted(data, size);
  });
  return 0;
}
