#include "osp/report/item_section.h"

#include <algorithm>
#include <cmath>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/report/chart_parts.h"
#include "osp/report/html.h"
#include "osp/report/plain_names.h"
#include "osp/report/summary.h"
#include "osp/report/task_items.h"

namespace osp {
namespace {

constexpr size_t kMostOpenRows = 40;

const TaskItems* items_of(const RunData& run, const std::string& bits, const std::string& task) {
  for (const TaskItems& items : run.items) {
    if (items.bits == bits && items.task == task) return &items;
  }
  return nullptr;
}

// Bits other than 16, and the tasks that both have, as scores or as items.
std::vector<std::pair<std::string, std::string>> pairs_of(const RunData& run) {
  std::vector<std::string> full, keys;
  std::vector<std::pair<std::string, std::string>> pairs;
  const auto each = [&](const auto& visit) {
    for (const EvalResult& result : run.evaluation) {
      for (const TaskResult& task : result.tasks) visit(result.bits, task.task);
    }
    for (const TaskItems& items : run.items) visit(items.bits, items.task);
  };
  each([&](const std::string& bits, const std::string& task) {
    if (bits == kFullBits) add_once(task, full);
  });
  each([&](const std::string& bits, const std::string& task) {
    const bool both = std::find(full.begin(), full.end(), task) != full.end();
    if (bits == kFullBits || !both || !add_once(bits + " " + task, keys)) return;
    pairs.emplace_back(bits, task);
  });
  return pairs;
}

std::string probability(double p) { return p < 1e-4 ? "below 0.0001" : fmt::format("{:.4f}", p); }

std::vector<std::string> paired_row(const RunData& run, const std::string& bits,
                                    const std::string& task) {
  std::vector<std::string> row = {run.label, plain_name(task), bits};
  const TaskItems* before = items_of(run, kFullBits, task);
  const TaskItems* after = items_of(run, bits, task);
  const auto without = [&](const std::string& why) {
    row.insert(row.end(), {"–", "–", "–", why, "–", "–", "–"});
    return row;
  };
  if (!before || !after) return without("– (single items not given)");
  if (!same_items(*before, *after)) return without("– (other items)");
  const PairedScores scores = compare_items(*before, *after);
  const auto percent = [](double share) { return format_fixed(100 * share, 1); };
  const double change = scores.after - scores.before;
  row.insert(
      row.end(),
      {format_count(std::llround(scores.items)), percent(scores.before), percent(scores.after),
       (change > 0 ? "+" : "") + percent(change) + " ± " + percent(scores.error),
       format_number(scores.lost), format_number(scores.gained), probability(scores.mcnemar)});
  return row;
}

std::string folded(const HtmlTable& table, const std::string& title) {
  const std::string html = render_table(table, title);
  if (table.rows.size() <= kMostOpenRows) return html;
  return fmt::format("<details><summary>{}: {} rows</summary>\n{}</details>\n", escape_html(title),
                     table.rows.size(), html);
}

// "31.2 ± 4.1", a share of n items in percent with its standard error.
std::string share_text(double share, double items) {
  if (!std::isfinite(share)) return "–";
  return fmt::format("{:.1f} ± {:.1f}", 100 * share,
                     100 * std::sqrt(share * (1 - share) / std::max(1.0, items - 1)));
}

}  // namespace

std::string paired_section(const std::vector<RunData>& runs) {
  HtmlTable table{{"", "task", "bits", "items", "16 bits (%)", "fewer bits (%)", "change (points)",
                   "lost", "gained", "p (McNemar)"},
                  {}};
  for (const RunData& run : runs) {
    for (const auto& [bits, task] : pairs_of(run)) {
      table.rows.push_back(paired_row(run, bits, task));
    }
  }
  if (table.rows.empty()) return "";
  return "<h3>The same items at 16 and at fewer bits</h3>\n"
         "<p class=\"soft\">Change: the difference of the scores with the standard error of the "
         "items' differences. Lost: items right at 16 bits and wrong at fewer; gained: the other "
         "way "
         "round. p: the exact probability of a split at least as uneven if both were equally "
         "likely "
         "(McNemar's test, two-sided), for each row by itself. Single items are written by osp "
         "eval "
         "with --save-items; give the file to osp report.</p>\n" +
         folded(table, "The same items at 16 and at fewer bits");
}

std::string subject_section(const std::vector<RunData>& runs) {
  HtmlTable table{{"subject", "items"}, {}};
  std::vector<std::string> names;
  std::vector<const TaskResult*> columns;
  for (const RunData& run : runs) {
    for (const EvalResult& result : run.evaluation) {
      for (const TaskResult& task : result.tasks) {
        if (task.subjects.empty()) continue;
        columns.push_back(&task);
        table.header.push_back(run.label + ", " + result.bits + " (%)");
        for (const SubjectScore& subject : task.subjects) add_once(subject.name, names);
      }
    }
  }
  if (columns.empty()) return "";
  const auto find = [](const TaskResult& task, const std::string& name) {
    return std::find_if(task.subjects.begin(), task.subjects.end(),
                        [&](const SubjectScore& subject) { return subject.name == name; });
  };
  // A row per subject, and their mean.
  for (const std::string& name : names) {
    std::vector<std::string> row = {plain_name(name), "–"};
    for (const TaskResult* task : columns) {
      const auto found = find(*task, name);
      const bool known = found != task->subjects.end();
      if (known) set_shared(row[1], format_count(std::llround(found->items)));
      row.push_back(known ? share_text(found->score, found->items) : "–");
    }
    table.rows.push_back(row);
  }
  std::vector<std::string> mean = {"mean over subjects", "–"};
  for (const TaskResult* task : columns) {
    double sum = 0, variance = 0;
    const auto count = static_cast<double>(task->subjects.size());
    for (const SubjectScore& s : task->subjects) {
      sum += s.score;
      variance += s.score * (1 - s.score) / std::max(1.0, s.items - 1);
    }
    mean.push_back(
        fmt::format("{:.1f} ± {:.1f}", 100 * sum / count, 100 * std::sqrt(variance) / count));
  }
  table.rows.push_back(mean);
  return "<h3>Subjects of MMLU</h3>\n<p class=\"soft\">Accuracy by characters with its standard "
         "error; the mean gives every subject the same weight.</p>\n" +
         folded(table, "Subjects of MMLU");
}

}  // namespace osp
