#include "osp/report/page_sections.h"

#include <algorithm>
#include <cmath>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/report/chart_parts.h"
#include "osp/report/html.h"
#include "osp/report/plain_names.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

constexpr size_t kMaxSampleBytes = 1500;
constexpr size_t kMaxPromptBytes = 300;
constexpr size_t kMaxEarlierSamples = 6;
constexpr size_t kMaxValueBytes = 300;
constexpr size_t kMostColumns = 6;  // more models get a row each

std::string text_of(const Json& value) {
  return shorten(value.is_string() ? value.get<std::string>() : json_text(value), kMaxValueBytes);
}

std::string details(const std::string& summary, const std::string& body) {
  return "<details><summary>" + escape_html(summary) + "</summary>\n" + body + "</details>\n";
}

std::string text_table(const HtmlTable& table, const std::string& caption) {
  return "<div class=\"text\">" + render_table(table, caption) + "</div>\n";
}

// The table with rows and columns exchanged.
HtmlTable turned(const HtmlTable& table) {
  HtmlTable out{{table.header.front()}, {}};
  for (const auto& row : table.rows) out.header.push_back(row.front());
  for (size_t column = 1; column < table.header.size(); ++column) {
    out.rows.push_back({table.header[column]});
    for (const auto& row : table.rows) out.rows.back().push_back(row[column]);
  }
  return out;
}

std::string sample_html(const TextSample& sample) {
  return fmt::format("<pre><b>{}</b>{}</pre>\n",
                     escape_html(shorten(sample.prompt, kMaxPromptBytes)),
                     escape_html(shorten(sample.text, kMaxSampleBytes)));
}

// The commands whose results the page shows.
std::string commands_of(const RunData& run) {
  std::string text = fmt::format("# {}\n", run.label);
  if (run.start.contains("command")) text += text_of(run.start["command"]) + "\n";
  for (const ModelResults::Source& source : run.sources) text += source.command + "\n";
  return text;
}

HtmlTable run_table(const std::vector<RunData>& runs) {
  HtmlTable table{
      {"", "parameters", "steps", "time", "tokens/s (median)", "peak memory", "skipped steps"}, {}};
  for (const RunData& run : runs) {
    if (!run.trained_here()) continue;
    const auto parameters = run.start.find("parameters");
    const bool known = parameters != run.start.end() && parameters->is_number();
    table.rows.push_back({run.label, known ? format_count(parameters->get<int64_t>()) : "–",
                          format_count(run.step),
                          run.seconds > 0 ? format_duration(run.seconds) : "–",
                          format_number(median_of(run.tokens_per_s.values)),
                          run.peak_memory_bytes > 0 ? format_bytes(run.peak_memory_bytes) : "–",
                          format_count(run.skipped_steps)});
  }
  return table;
}

// The command without its arguments: "osp analyze" of "osp analyze runs/…".
std::string program_of(const std::string& command) {
  const size_t space = command.find(' ');
  return command.substr(0, space == std::string::npos ? space : command.find(' ', space + 1));
}

// Other facts in the first record of each run and in its results: versions, device, threads.
HtmlTable version_table(const std::vector<RunData>& runs) {
  HtmlTable table{{"model and command", "recorded"}, {}};
  for (const RunData& run : runs) {
    std::string text;
    for (const auto& [key, value] : run.start.items()) {
      const bool shown_elsewhere = key == "kind" || key == "step" || key == "tokens" ||
                                   key == "parameters" || key == "command";
      if (!shown_elsewhere)
        text += (text.empty() ? "" : "; ") + plain_name(key) + " " + text_of(value);
    }
    if (run.trained_here()) {
      table.rows.push_back({run.label + ": osp train", text.empty() ? "–" : text});
    }
    for (const ModelResults::Source& source : run.sources) {
      std::string facts;
      for (const auto& [key, value] : source.facts.items()) {
        facts += (facts.empty() ? "" : "; ") + plain_name(key) + " " + text_of(value);
      }
      if (!facts.empty()) {
        table.rows.push_back({run.label + ": " + program_of(source.command), facts});
      }
    }
  }
  return table;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> flatten_recipe(const Json& recipe) {
  std::vector<std::pair<std::string, std::string>> settings;
  if (!recipe.is_object()) return settings;
  for (const auto& [section, values] : recipe.items()) {
    if (!values.is_object()) {
      settings.emplace_back(section, text_of(values));
      continue;
    }
    for (const auto& [key, value] : values.items()) {
      settings.emplace_back(section + "." + key, text_of(value));
    }
  }
  return settings;
}

std::string recipe_section(const std::vector<RunData>& all_runs) {
  // All settings, and those in which the runs differ.
  std::vector<std::string> names;
  std::vector<std::vector<std::pair<std::string, std::string>>> recipes;
  std::vector<RunData> runs = all_runs;
  std::erase_if(runs, [](const RunData& run) { return flatten_recipe(run.recipe).empty(); });
  for (const RunData& run : runs) {
    recipes.push_back(flatten_recipe(run.recipe));
    for (const auto& [name, value] : recipes.back()) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  if (names.empty()) return "";
  HtmlTable differences{{"setting"}, {}};
  for (const RunData& run : runs) differences.header.push_back(run.label);
  for (const std::string& name : names) {
    std::vector<std::string> row = {name};
    for (const auto& recipe : recipes) {
      const auto found = std::find_if(recipe.begin(), recipe.end(),
                                      [&](const auto& setting) { return setting.first == name; });
      row.push_back(found == recipe.end() ? "–" : found->second);
    }
    if (std::adjacent_find(row.begin() + 1, row.end(), std::not_equal_to<>()) != row.end()) {
      differences.rows.push_back(row);
    }
  }
  // The differences, then each recipe in full.
  std::string out = "<h2>Recipes</h2>\n";
  if (runs.size() > 1 && differences.rows.empty()) {
    out += "<p>All runs have the same recipe.</p>\n";
  } else if (runs.size() > 1) {
    out += "<p>The runs differ in these settings and in no other.</p>\n" +
           text_table(runs.size() > kMostColumns ? turned(differences) : differences,
                      "Settings that differ");
  }
  for (size_t r = 0; r < runs.size(); ++r) {
    HtmlTable full{{"setting", "value"}, {}};
    for (const auto& [name, value] : recipes[r]) full.rows.push_back({name, value});
    out += details("The whole recipe of " + runs[r].label, text_table(full, runs[r].label));
  }
  return out;
}

std::string sample_section(const std::vector<RunData>& runs) {
  std::string out;
  for (const RunData& run : runs) {
    if (run.samples.empty()) continue;
    const int64_t last = run.samples.back().step;
    out += fmt::format("<h3>{}, step {}</h3>\n", escape_html(run.label), format_count(last));
    std::vector<const TextSample*> earlier;
    for (const TextSample& sample : run.samples) {
      if (sample.step == last) {
        out += sample_html(sample);
      } else {
        earlier.push_back(&sample);
      }
    }
    if (earlier.empty()) continue;
    std::string body;
    for (const size_t i : spread_indices(earlier.size(), kMaxEarlierSamples)) {
      body += fmt::format("<p>Step {}</p>\n", format_count(earlier[i]->step)) +
              sample_html(*earlier[i]);
    }
    out += details("Earlier samples of " + run.label, body);
  }
  if (out.empty()) return "";
  return "<h2>What the models write</h2>\n<p>The prompt in colour, the model's continuation after "
         "it.</p>\n" +
         out;
}

std::string provenance_section(const std::vector<RunData>& runs, const std::string& command,
                               const std::string& machine) {
  std::string out = "<h2>How this was made</h2>\n" +
                    (run_table(runs).rows.empty() ? "" : render_table(run_table(runs), "Runs")) +
                    text_table(version_table(runs), "Versions");
  std::string notes;
  for (const RunData& run : runs) {
    for (const std::string& note : run.missing) {
      notes += "<li>" + escape_html(run.label + ": " + note) + ".</li>\n";
    }
  }
  if (!notes.empty()) out += "<h3>Missing</h3>\n<ul class=\"notes\">\n" + notes + "</ul>\n";
  std::string commands;
  for (const RunData& run : runs) commands += commands_of(run);
  if (!machine.empty()) out += "<p>This page was made by " + escape_html(machine) + ".</p>\n";
  if (!command.empty()) commands += "# this page\n" + command + "\n";
  return out + "<h3>Commands</h3>\n<pre>" + escape_html(commands) + "</pre>\n";
}

}  // namespace osp
