#include "osp/eval/results_table.h"

#include <algorithm>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/eval/task_table.h"

namespace osp {
namespace {

using Cells = std::vector<std::string>;

std::string per_cent(const Json& value) {
  return value.is_number() ? fmt::format("{:.1f}", 100 * value.get<double>()) : "–";
}

// All widths of all models, in order of appearance.
Cells all_widths(const Json& document) {
  Cells widths;
  for (const Json& model : document["models"]) {
    for (const Json& result : model["results"]) {
      const std::string bits = result["bits"];
      if (std::find(widths.begin(), widths.end(), bits) == widths.end()) widths.push_back(bits);
    }
  }
  return widths;
}

// The tasks that any model has results for, in the order of benchmark_tasks().
Cells all_tasks(const Json& document) {
  Cells names;
  for (const TaskDescription& task : benchmark_tasks()) {
    bool there = false;
    for (const Json& model : document["models"]) {
      for (const Json& result : model["results"]) {
        there = there || result["tasks"].contains(task.name);
      }
    }
    if (there) names.push_back(task.name);
  }
  return names;
}

std::vector<Cells> table_rows(const Json& document) {
  const Cells tasks = all_tasks(document), widths = all_widths(document);
  // The heading row.
  std::vector<Cells> rows = {{"model", "parameters", "tokens", "bits"}};
  rows[0].insert(rows[0].end(), tasks.begin(), tasks.end());
  for (const std::string& bits : widths) rows[0].push_back("average at " + bits);
  // One row per model: scores at its first width, averages at all.
  for (const Json& model : document["models"]) {
    if (model["results"].empty()) continue;
    const Json& first = model["results"][0];
    const Json& tokens = model["tokens"];
    Cells& row = rows.emplace_back();
    row = {model["model"].get<std::string>(), json_text(model["parameters"]),
           tokens.is_null() ? "–" : json_text(tokens), first["bits"].get<std::string>()};
    for (const std::string& task : tasks) {
      const bool there = first["tasks"].contains(task);
      row.push_back(per_cent(there ? first["tasks"][task]["score"] : Json()));
    }
    for (const std::string& bits : widths) {
      Json average;
      for (const Json& result : model["results"]) {
        if (result["bits"] == bits && !result["average"].is_null()) {
          average = result["average"]["value"];
        }
      }
      row.push_back(per_cent(average));
    }
  }
  return rows;
}

std::string csv_cell(const std::string& text) {
  if (text == "–") return "";
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

std::string markdown_cell(const std::string& text) {
  std::string cell;
  for (const char c : text) cell += c == '|' ? "\\|" : std::string(1, c);
  return cell;
}

}  // namespace

std::string results_text(const Json& document) {
  std::string text;
  for (const Json& model : document["models"]) {
    for (const Json& result : model["results"]) {
      text += fmt::format("{} at {}\n{:<16} {:>7} {:>6} {:>7} {:>7} {:>6} {:>10}\n",
                          model["model"].get<std::string>(), result["bits"].get<std::string>(),
                          "task", "score %", "±", "acc", "bytes", "n", "time");
      for (const auto& [name, task] : result["tasks"].items()) {
        const auto beside = [&task = task](const char* metric) {
          return per_cent(task.contains(metric) ? task[metric]["value"] : Json());
        };
        text += fmt::format("{:<16} {:>7} {:>6} {:>7} {:>7} {:>6} {:>10}\n", name,
                            per_cent(task["score"]), per_cent(task["standard_error"]),
                            beside("acc"), beside("acc_bytes"), task["n"].get<int64_t>(),
                            format_duration(task["seconds"].get<double>()));
        if (task["cut"].get<int64_t>() > 0) {
          text += fmt::format("  {} prompts cut on the left to fit the context\n",
                              task["cut"].get<int64_t>());
        }
      }
      if (!result["average"].is_null()) {
        text += fmt::format("average {}: {}\n", per_cent(result["average"]["value"]),
                            result["average"]["formed"].get<std::string>());
      }
    }
  }
  return text;
}

std::string results_markdown(const Json& document) {
  std::string text;
  const std::vector<Cells> rows = table_rows(document);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (const std::string& cell : rows[i]) text += "| " + markdown_cell(cell) + " ";
    text += "|\n";
    if (i > 0) continue;
    for (size_t column = 0; column < rows[0].size(); ++column)
      text += column == 0 ? "|---" : "|--:";
    text += "|\n";
  }
  return text;
}

std::string results_csv(const Json& document) {
  std::string text;
  for (const Cells& row : table_rows(document)) {
    for (size_t i = 0; i < row.size(); ++i) text += (i == 0 ? "" : ",") + csv_cell(row[i]);
    text += "\n";
  }
  return text;
}

}  // namespace osp
