#include "osp/report/page.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <functional>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/http/content_policy.h"
#include "osp/report/chart_parts.h"
#include "osp/report/claims.h"
#include "osp/report/common_measurements.h"
#include "osp/report/cost_charts.h"
#include "osp/report/curve_charts.h"
#include "osp/report/damage_chart.h"
#include "osp/report/html.h"
#include "osp/report/item_section.h"
#include "osp/report/model_charts.h"
#include "osp/report/outlier_sections.h"
#include "osp/report/page_assets.h"
#include "osp/report/page_sections.h"
#include "osp/report/quant_charts.h"
#include "osp/report/race_charts.h"
#include "osp/report/recipe_kind.h"
#include "osp/report/seed_groups.h"
#include "osp/report/sink_charts.h"
#include "osp/report/summary.h"
#include "osp/report/task_charts.h"

namespace osp {
namespace {

constexpr size_t kMostPoints = 2000;
constexpr size_t kFewestPoints = 60;
constexpr size_t kMostInLegend = 6;  // page.js has colours for so many

bool any_trace(const Chart& chart, const std::function<bool(const Json& meta)>& holds) {
  return std::any_of(chart.traces.begin(), chart.traces.end(), [&](const Json& trace) {
    return trace.contains("meta") && holds(trace["meta"]);
  });
}

std::string chart_html(const Chart& chart, bool wide) {
  std::string out =
      fmt::format("<figure{}>\n<figcaption><h3 id=\"{}-title\">{}</h3><p>{}</p></figcaption>\n",
                  wide ? " class=\"wide\"" : "", chart.id, escape_html(chart.title),
                  escape_html(chart.caption));
  if (any_trace(chart, [](const Json& meta) { return meta.value("role", "") == "smooth"; })) {
    out += fmt::format(
        "<label>Smoothing <input type=\"range\" id=\"{}-smooth\" min=\"0\" max=\"10\" "
        "step=\"0.5\" value=\"2\" autocomplete=\"off\"> <output>2</output> % of the run</label>\n",
        chart.id);
  }
  if (chart.choices.size() > 1) {
    out += fmt::format("<label>Show <select id=\"{}-choice\" autocomplete=\"off\">", chart.id);
    for (size_t i = 0; i < chart.choices.size(); ++i) {
      out +=
          fmt::format("<option value=\"{}\"{}>{}</option>", i,
                      i == chart.default_choice ? " selected" : "", escape_html(chart.choices[i]));
    }
    out += "</select></label>\n";
  }
  // The points of a histogram are spelled out by the script, for the choice that is shown.
  const bool spelled_out = any_trace(chart, [](const Json& meta) { return meta.contains("grid"); });
  out += fmt::format(
      "<div class=\"sideways\"><div class=\"plot\" id=\"{0}\" role=\"img\" "
      "aria-labelledby=\"{0}-title\"></div></div>\n"
      "<details><summary>The same as a table</summary>\n{1}{2}</details>\n</figure>\n",
      chart.id, render_table(chart.table, chart.title),
      spelled_out ? fmt::format("<div class=\"scroll points\" id=\"{}-points\" tabindex=\"0\" "
                                "role=\"region\" aria-label=\"Points of the chart\"></div>\n",
                                chart.id)
                  : "");
  return out;
}

std::string claim_html(const Claim& claim) {
  const bool shown = claim.state == ClaimState::shown;
  const bool measured = claim.state != ClaimState::not_measured;
  return fmt::format(
      "<li class=\"{}\"><b>{}</b> {} <span class=\"soft\">Found: {}. Judged by: {}. In the paper: "
      "{}.</span></li>\n",
      !measured ? "unmeasured"
      : shown   ? "holds"
                : "fails",
      !measured ? "Not measured."
      : shown   ? "Shown."
                : "Not shown.",
      escape_html(claim.says), escape_html(claim.found), escape_html(claim.judged),
      escape_html(claim.reference));
}

// The claims that were measured as a list, the others folded up below it.
std::string claims_html(const std::vector<Claim>& claims) {
  std::string measured, rest;
  std::array<size_t, 3> counts = {};
  for (const Claim& claim : claims) {
    (claim.state == ClaimState::not_measured ? rest : measured) += claim_html(claim);
    ++counts.at(static_cast<size_t>(claim.state));
  }
  std::string out = "<h2>What the paper claims</h2>\n";
  out += fmt::format(
      "<p class=\"soft\">{} claims of {}, judged by the models of this page, which are told apart "
      "by their recipes: {} shown, {} not shown, {} not measured.</p>\n",
      claims.size(), escape_html(claims_source()), counts[0], counts[1], counts[2]);
  if (!measured.empty()) out += "<ul class=\"claims\">\n" + measured + "</ul>\n";
  if (rest.empty()) return out;
  return out + fmt::format(
                   "<details><summary>{} claims that were not measured</summary>\n<ul "
                   "class=\"claims\">\n{}</ul></details>\n",
                   counts[2], rest);
}

// Marks the charts that take the whole width: those that ask for it, and those that would stand
// alone in their row of two.
std::vector<bool> whole_width(const std::vector<Chart>& charts) {
  std::vector<bool> wide;
  size_t in_row = 0;
  for (size_t i = 0; i < charts.size(); ++i) {
    const bool last = i + 1 == charts.size() || charts[i + 1].wide;
    in_row = charts[i].wide ? 0 : in_row + 1;
    wide.push_back(charts[i].wide || (last && in_row % 2 == 1));
    if (last) in_row = 0;
  }
  return wide;
}

// Renders charts in the order of the page and collects their data for the script.
class ChartSections {
 public:
  std::string section(const std::string& heading, const std::vector<Chart>& charts) {
    if (charts.empty()) return "";
    std::string out = heading.empty() ? "" : "<h2>" + escape_html(heading) + "</h2>\n";
    out += "<div class=\"charts\">\n";
    const std::vector<bool> wide = whole_width(charts);
    for (size_t i = 0; i < charts.size(); ++i) {
      const Chart& chart = charts[i];
      out += chart_html(chart, wide[i]);
      data_["charts"].push_back({{"id", chart.id},
                                 {"traces", chart.traces},
                                 {"layout", chart.layout},
                                 {"over_tokens", chart.over_tokens},
                                 {"pixels_per_category", chart.pixels_per_category}});
    }
    return out + "</div>\n";
  }
  const Json& data() const { return data_; }

 private:
  Json data_ = {{"charts", Json::array()}};
};

// The training time in seconds at some tokens of each run, for the time axis.
Json clocks(const std::vector<RunData>& runs, size_t max_points) {
  Json all = Json::array();
  for (const RunData& run : runs) {
    const Series clock = thin(run.clock, max_points);
    all.push_back(
        {{"tokens", to_json_array(clock.tokens)}, {"seconds", to_json_array(clock.values)}});
  }
  return all;
}

bool any_clock(const std::vector<RunData>& runs) {
  return std::any_of(runs.begin(), runs.end(),
                     [](const RunData& run) { return run.clock.size() > 1; });
}

constexpr const char* kLegend =
    "<p class=\"soft\">Loss: on held-out text, in nats per token, at the end. Excess kurtosis: per "
    "token over channels, mean over tokens and hidden states, 0 for a Gaussian. Largest: the "
    "largest absolute value in any hidden state. PPL: perplexity with weights, activations and "
    "key-value cache at so many bits, rounded to nearest (RTN). Damage: how much 4 bits add to "
    "it; with a Hadamard transform in front of the down projection beside it. Outlier tax: the "
    "divergence that a random rotation of the residual stream gives back, in nats per token and "
    "as a share; the rotation changes the basis and nothing else.</p>\n<noscript><p>The charts "
    "need scripts; the tables below them do not.</p></noscript>\n";

constexpr const char* kAxisChoice =
    "<p><label>Horizontal axis of the curves <select id=\"axis\" autocomplete=\"off\"><option "
    "value=\"tokens\">tokens</option><option value=\"time\">time</option></select></label></p>\n";

// The list of models with a box each, where they are too many for the charts' legends.
std::string model_key(const std::vector<RunData>& models) {
  if (models.size() <= kMostInLegend) return "";
  std::string out =
      "<fieldset class=\"key\" id=\"models\"><legend>Models in the charts</legend>\n"
      "<p><button type=\"button\" data-all=\"1\">all</button> <button type=\"button\" "
      "data-all=\"\">none</button></p>\n";
  for (size_t m = 0; m < models.size(); ++m) {
    const std::string kind = kind_name(recipe_kind(models[m].recipe));
    const bool said = models[m].label.find(kind) != std::string::npos;
    out += fmt::format(
        "<label><input type=\"checkbox\" checked autocomplete=\"off\" data-run=\"{}\"> <span "
        "class=\"swatch\"></span> {}</label>\n",
        m, escape_html(models[m].label + (said ? "" : ": " + kind)));
  }
  return out + "</fieldset>\n";
}

// The table of all models, and of every run where models stand for several.
std::string results_html(const std::vector<RunData>& runs, const std::vector<RunData>& models) {
  std::string out =
      "<h2>Results</h2>\n<div id=\"results\">" +
      render_table(without_empty_columns(summary_table(runs, true)), "Results of all models") +
      "</div>\n";
  if (models.size() != runs.size()) {
    out += fmt::format(
        "<p class=\"soft\">{} runs of {} recipes: means and standard deviations over seeds. Curves "
        "are means, with the lowest and the highest as a band; histograms, attention and texts are "
        "those of the first seed.</p>\n<details><summary>Every run</summary>\n{}</details>\n",
        runs.size(), models.size(),
        render_table(without_empty_columns(summary_table(runs)), "Results of every run"));
  }
  for (const std::string& note : measurement_notes(runs)) {
    out += "<p class=\"soft\">" + escape_html(note) + "</p>\n";
  }
  for (const RunData& run : runs) {
    if (run.rounded_before.empty()) continue;
    out += fmt::format(
        "<p class=\"caution\">{}: its weights were rounded before ({}), so that its numbers are "
        "not those of a model that was rounded once.</p>\n",
        escape_html(run.label), escape_html(run.rounded_before));
  }
  return out + kLegend;
}

std::vector<Chart> quantization(const std::vector<RunData>& models) {
  std::vector<Chart> charts = damage_charts(models);
  for (const Chart& chart : quantization_charts(models)) charts.push_back(chart);
  return charts;
}

// "OSP and Adam, 7,212,288 parameters, 3,072,000 tokens": what was trained, else what was measured.
std::string title_of(const std::vector<RunData>& models) {
  std::vector<std::string> names, sizes, others;
  for (const RunData& model : models) {
    const std::string kind = kind_name(recipe_kind(model.recipe));
    add_once(kind.empty() ? model.label : kind, kind.empty() ? others : names);
    if (kind.empty() || model.tokens <= 0) continue;
    add_once(format_count(std::llround(model.tokens)) + " tokens", sizes);
  }
  names.insert(names.end(), others.begin(), others.end());
  std::string title;
  for (size_t i = 0; i < std::min<size_t>(names.size(), 4); ++i) {
    title += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + names[i];
  }
  if (names.size() > 4) title += fmt::format(" and {} more", names.size() - 4);
  return sizes.size() == 1 ? title + ", trained on " + sizes.front() : title;
}

std::string render_main(const ReportInputs& inputs, const PageOptions& options, size_t max_points,
                        ChartSections& sections) {
  const std::vector<RunData>& runs = inputs.runs;
  const size_t bins = std::max<size_t>(max_points / 5, kFewestPoints);
  const std::vector<RunData> models = join_seeds(runs);
  std::string out = runs.empty() ? "" : results_html(runs, models) + model_key(models);
  if (any_clock(models)) out += kAxisChoice;
  out += sections.section("Training", learning_curves(models, max_points));
  std::vector<Chart> outliers = outlier_curves(models, max_points);
  const std::vector<Chart> finished = model_charts(models, bins);
  outliers.insert(outliers.end(), finished.begin(), finished.end());
  out += sections.section("Outliers", outliers) + largest_section(models) +
         activation_section(models) + verdict_section(models);
  out += sections.section(any_sink(models) ? "Attention sinks" : "Where attention goes",
                          sink_charts(models, bins)) +
         sink_section(models);
  out += sections.section("What outliers cost", cost_charts(models));
  if (inputs.race) {
    out += sections.section("Over the length of training", race_charts(*inputs.race, models));
  }
  out += sections.section("Quantization", quantization(models));
  out += sections.section("Benchmarks", task_charts(models));
  const std::string items = paired_section(runs) + subject_section(models);
  if (!items.empty() && out.find("<h2>Benchmarks</h2>") == std::string::npos) {
    out += "<h2>Benchmarks</h2>\n";
  }
  out += items;
  return out + sample_section(models) + recipe_section(models) +
         provenance_section(runs, options.command, options.machine);
}

// Gives every heading of a section an id, and lists them with links.
std::string with_contents(std::string main, const std::string& before) {
  std::string links;
  size_t number = 0;
  for (size_t at = 0; (at = main.find("<h2>", at)) != std::string::npos; ++at) {
    const size_t end = main.find("</h2>", at);
    const std::string id = fmt::format("section-{}", ++number);
    links +=
        fmt::format("<li><a href=\"#{}\">{}</a></li>\n", id, main.substr(at + 4, end - at - 4));
    main.insert(at + 3, " id=\"" + id + "\"");
  }
  return "<nav aria-label=\"Contents\"><ul>\n" + before + links + "</ul></nav>\n<main>\n" + main +
         "</main>\n";
}

std::string render_body(const ReportInputs& inputs, const PageOptions& options, size_t max_points,
                        ChartSections& sections) {
  const std::vector<RunData>& runs = inputs.runs;
  const std::string says = runs.empty() ? race_sentence(*inputs.race) : headline(join_seeds(runs));
  std::string out = "<header id=\"top\">\n<h1>" + escape_html(options.title) + "</h1>\n" +
                    "<p class=\"headline\">" + escape_html(says) + "</p>\n</header>\n";
  if (runs.empty()) {
    return out + with_contents(render_main(inputs, options, max_points, sections), "");
  }
  out += with_contents(render_main(inputs, options, max_points, sections),
                       "<li><a href=\"#claims\">What the paper claims</a></li>\n");
  // The claims stand between contents and results.
  const std::string claims = "<section id=\"claims\">\n" + claims_html(judge_claims(runs)) +
                             published_section(runs) + "</section>\n";
  return out.insert(out.find("<main>\n") + 7, claims);
}

std::string render(const ReportInputs& inputs, const PageOptions& options,
                   const std::string& plotly, size_t max_points) {
  const std::vector<RunData>& runs = inputs.runs;
  ChartSections sections;
  const std::string body = render_body(inputs, options, max_points, sections);
  Json data = sections.data();
  data["clocks"] = clocks(join_seeds(runs), max_points);
  data["many"] = join_seeds(runs).size() > kMostInLegend;
  data["live"] = options.live_version;
  const std::string script = "\n" + page_js();
  const std::string policy = fmt::format(
      "default-src 'none'; script-src {} {}; style-src 'unsafe-inline'; img-src data: "
      "blob:; base-uri 'none'; form-action 'none'{}",
      content_hash(plotly), content_hash(script),
      options.live_version.empty() ? "" : "; connect-src 'self'");
  std::string page =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"" +
      policy +
      "\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>" +
      escape_html(options.title) + "</title>\n<style>\n" + page_css() +
      "</style>\n</head>\n<body>\n";
  page += body;
  page += "<script type=\"application/json\" id=\"charts\">" + json_for_script(data) +
          "</script>\n<script>" + plotly + "</script>\n<script>" + script +
          "</script>\n</body>\n</html>\n";
  return page;
}

}  // namespace

std::string plotly_path() {
  const char* chosen = std::getenv("OSP_PLOTLY");
  const std::string path = chosen != nullptr ? chosen : "";
  if (!path_exists(path)) {
    fail(ErrorCode::io,
         "{}; the report needs plotly.min.js of the plotly package: run "
         "scripts/setup.sh, or set OSP_PLOTLY to the file",
         path.empty() ? "OSP_PLOTLY is not set" : path + ": no such file");
  }
  return path;
}

std::string render_page(const ReportInputs& inputs, const PageOptions& given,
                        const std::string& plotly) {
  OSP_CHECK(!inputs.runs.empty() || inputs.race, "a page of nothing");
  PageOptions options = given;
  if (options.title.empty()) {
    options.title = inputs.runs.empty()
                        ? fmt::format("{} and {}", inputs.race->arms[0], inputs.race->arms[1])
                        : title_of(join_seeds(inputs.runs));
  }
  if (plotly.find("</script") != std::string::npos || plotly.find('\r') != std::string::npos) {
    fail(
        ErrorCode::unsupported,
        "plotly.min.js: holds \"</script\" or a carriage return, which cannot stand inside a page; "
        "use the file of the pinned plotly package");
  }
  std::string page = render(inputs, options, plotly, kMostPoints);
  for (size_t points = kMostPoints; page.size() > kMaxPageBytes && points / 2 >= kFewestPoints;) {
    points /= 2;
    page = render(inputs, options, plotly, points);
  }
  return page;
}

}  // namespace osp
