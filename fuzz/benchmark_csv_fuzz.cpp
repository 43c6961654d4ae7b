// Feeds arbitrary bytes to the CSV reader of benchmark files. Rows that it returns must be the same
// when they are written as CSV with every field in quotes and read again.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/accepted.h"
#include "fuzz/memory_file.h"
#include "fuzz/mutator.h"
#include "osp/base/error.h"
#include "osp/data/benchmark_files.h"

namespace {

using Rows = std::vector<std::vector<std::string>>;

Rows rows_of(const std::string& path) {
  Rows rows;
  int64_t last = 0;
  osp::read_csv(path, [&](const osp::BenchmarkRecord& record) {
    OSP_CHECK(record.number >= last, "line {} after line {}", record.number, last);
    last = record.number;
    rows.push_back(osp::strings_field(record, "columns"));
    return rows.size() < 1000;
  });
  return rows;
}

std::string quoted(const Rows& rows) {
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      text += i == 0 ? "\"" : ",\"";
      for (const char c : row[i]) text += c == '"' ? std::string("\"\"") : std::string(1, c);
      text += '"';
    }
    text += '\n';
  }
  return text;
}

// The rows of a text, by a simpler reader than the one under test.
Rows simple_rows(std::string_view text) {
  Rows rows(1, {""});
  bool quoted = false;
  for (const char c : text) {
    if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      rows.back().emplace_back();
    } else if (c == '\n' && !quoted) {
      rows.push_back({""});
    } else {
      rows.back().back() += c;
    }
  }
  return rows;
}

// Changes, adds, doubles or removes a field or a row; fields get quotes where they need them, and
// some others.
std::string mutated(std::string_view text, osp::fuzz::Dice& dice) {
  Rows rows = simple_rows(text);
  std::vector<std::string>& row = dice.one_of(rows);
  const auto at = [&](auto& items) {
    return items.begin() + static_cast<std::ptrdiff_t>(dice.below(items.size()));
  };
  switch (dice.below(8)) {
    case 0:
      rows.insert(at(rows), std::vector<std::string>(row));
      break;
    case 1:
      if (rows.size() > 1) rows.erase(at(rows));
      break;
    case 2:
      row.insert(at(row), osp::fuzz::some_text(dice));
      break;
    case 3:
      if (row.size() > 1) row.erase(at(row));
      break;
    case 4:
      *at(row) = osp::fuzz::some_text(dice);
      break;
    case 5:
      *at(row) = "\"" + *at(row) + "\",\r\n";
      break;
    default:
      *at(row) = osp::fuzz::changed_bytes(*at(row), dice);
  }
  std::string result;
  const std::string end = dice.one_in(4) ? "\r\n" : "\n";
  for (const auto& fields : rows) {
    for (const std::string& field : fields) {
      const bool needs = field.find_first_of("\",\r\n") != std::string::npos;
      if (&field != &fields[0]) result += ',';
      result += needs || dice.one_in(8) ? quoted({{field}}) : field;
      if (result.ends_with('\n')) result.pop_back();
    }
    result += end;
  }
  if (dice.one_in(8)) result.resize(result.size() - end.size());
  return result;
}

}  // namespace

OSP_MUTATOR(mutated)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Rows rows;
  try {
    rows = rows_of(osp::fuzz::memory_file("test.csv", data, size));
  } catch (const osp::Error&) {
    return 0;
  }
  osp::fuzz::accepted(data, size);
  const std::string text = quoted(rows);
  const std::string path = osp::fuzz::memory_file(
      "again.csv", reinterpret_cast<const uint8_t*>(text.data()), text.size());
  OSP_CHECK(rows_of(path) == rows, "rows changed on their way");
  return 0;
}
