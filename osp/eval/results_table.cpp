#include "osp/eval/results_table.h"

#include <fmt/ranges.h>

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

// Prompts of a task that lost tokens to fit the model's context.
int64_t num_truncated(const Json& task) { return task.value("cut", int64_t{0}); }

// True if the average contains a score from truncated prompts.
bool average_is_truncated(const Json& result) {
  if (result["average"].is_null()) return false;
  return std::any_of(result["tasks"].begin(), result["tasks"].end(),
                     [](const Json& task) { return num_truncated(task) > 0; });
}

// "5 of gsm8k at 16-16-16", for every task of the model with truncated prompts.
Cells truncated_tasks(const Json& model) {
  Cells found;
  for (const Json& result : model["results"]) {
    for (const auto& [name, task] : result["tasks"].items()) {
      if (num_truncated(task) == 0) continue;
      found.push_back(fmt::format("{} of {} at {}", num_truncated(task), name,
                                  result["bits"].get<std::string>()));
    }
  }
  return found;
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

// The rows of the table, each score and average from truncated prompts followed by `mark`.
std::vector<Cells> table_rows(const Json& document, const std::string& mark) {
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
      if (!first["tasks"].contains(task)) {
        row.emplace_back("–");
        continue;
      }
      const Json& scored = first["tasks"][task];
      row.push_back(per_cent(scored["score"]) + (num_truncated(scored) > 0 ? mark : ""));
    }
    for (const std::string& bits : widths) {
      std::string average = "–";
      for (const Json& result : model["results"]) {
        if (result["bits"] == bits && !result["average"].is_null()) {
          average =
              per_cent(result["average"]["value"]) + (average_is_truncated(result) ? mark : "");
        }
      }
      row.push_back(average);
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

std::string task_line(const std::string& name, const Json& task) {
  const auto beside = [&](const char* metric) {
    return per_cent(task.contains(metric) ? task[metric]["value"] : Json());
  };
  const int64_t truncated = num_truncated(task);
  std::string line =
      fmt::format("{:<16} {:>7}{} {:>6} {:>7} {:>7} {:>6} {:>10}\n", name, per_cent(task["score"]),
                  truncated > 0 ? "*" : " ", per_cent(task["standard_error"]), beside("acc"),
                  beside("acc_bytes"), task["n"].get<int64_t>(),
                  format_duration(task["seconds"].get<double>()));
  if (truncated > 0) {
    line += fmt::format("  * {} of {} prompts truncated on the left to fit the context{}\n",
                        truncated, task["n"].get<int64_t>(),
                        task.value("shots", int64_t{0}) > 0
                            ? fmt::format(": fewer than {} shots", task["shots"].get<int64_t>())
                            : "");
  }
  return line;
}

}  // namespace

std::string results_text(const Json& document) {
  std::string text;
  for (const Json& model : document["models"]) {
    for (const Json& result : model["results"]) {
      text += fmt::format("{} at {}\n{:<16} {:>8} {:>6} {:>7} {:>7} {:>6} {:>10}\n",
                          model["model"].get<std::string>(), result["bits"].get<std::string>(),
                          "task", "score % ", "±", "acc", "bytes", "n", "time");
      for (const auto& [name, task] : result["tasks"].items()) text += task_line(name, task);
      if (!result["average"].is_null()) {
        text += fmt::format("average {}{}: {}\n", per_cent(result["average"]["value"]),
                            average_is_truncated(result) ? "*" : "",
                            result["average"]["formed"].get<std::string>());
      }
    }
  }
  return text;
}

std::string results_markdown(const Json& document) {
  std::string text;
  const std::vector<Cells> rows = table_rows(document, "*");
  for (size_t i = 0; i < rows.size(); ++i) {
    for (const std::string& cell : rows[i]) text += "| " + markdown_cell(cell) + " ";
    text += "|\n";
    if (i > 0) continue;
    for (size_t column = 0; column < rows[0].size(); ++column)
      text += column == 0 ? "|---" : "|--:";
    text += "|\n";
  }
  // Say below the table what its marks mean.
  for (const Json& model : document["models"]) {
    const Cells truncated = truncated_tasks(model);
    if (truncated.empty()) continue;
    text += fmt::format("\n\\* {}: prompts truncated on the left to fit the context: {}.\n",
                        model["model"].get<std::string>(), fmt::join(truncated, ", "));
  }
  return text;
}

std::string results_csv(const Json& document) {
  std::string text;
  std::vector<Cells> rows = table_rows(document, "");
  // A column of its own, so that scores stay numbers.
  rows[0].emplace_back("truncated prompts");
  size_t at = 1;
  for (const Json& model : document["models"]) {
    if (model["results"].empty()) continue;
    rows[at++].push_back(fmt::format("{}", fmt::join(truncated_tasks(model), ", ")));
  }
  for (const Cells& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) text += (i == 0 ? "" : ",") + csv_cell(row[i]);
    text += "\n";
  }
  return text;
}

}  // namespace osp
