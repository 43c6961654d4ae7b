// For tests/python/test_tensorboard.py: tensorboard_probe FOLDER JSON writes the events of
// {"start": seconds, "resumed_at": step or null, "scalars": [[tag, step, value, time]], "texts":
// [[tag, step, text, time]]} into a new event file of the folder. A value of null stands for NaN.
#include <fmt/format.h>

#include <cstdio>
#include <limits>
#include <optional>
#include <string>

#include "osp/base/json.h"
#include "osp/formats/tensorboard.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    fmt::print(stderr, "usage: tensorboard_probe FOLDER JSON\n");
    return 2;
  }
  const osp::Json json = osp::read_json_file(argv[2]);
  std::optional<int64_t> resumed_at;
  if (!json.at("resumed_at").is_null()) resumed_at = json.at("resumed_at").get<int64_t>();
  osp::EventWriter writer(argv[1], json.at("start"), resumed_at);
  for (const osp::Json& s : json.at("scalars")) {
    const double value =
        s[2].is_null() ? std::numeric_limits<double>::quiet_NaN() : s[2].get<double>();
    writer.scalar(s[0].get<std::string>(), s[1], value, s[3]);
  }
  for (const osp::Json& t : json.at("texts")) {
    writer.text(t[0].get<std::string>(), t[1], t[2].get<std::string>(), t[3]);
  }
  writer.flush();
  return 0;
}
