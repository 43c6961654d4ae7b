#include "osp/ptq/quantize_report.h"

#include <cmath>
#include <limits>

#include "osp/base/json_number.h"

namespace osp {
namespace {

double number_or_nan(const Json& json, const std::string& key, const std::string& where) {
  const auto found = json.find(key);
  if (found != json.end() && found->is_null()) return std::numeric_limits<double>::quiet_NaN();
  return json_number(json, key, where);
}

// The mean of those that are finite, NaN if none is.
class Mean {
 public:
  void add(double value) {
    if (!std::isfinite(value)) return;
    sum_ += value;
    ++count_;
  }
  double value() const { return sum_ / count_; }

 private:
  double sum_ = 0.0;
  int count_ = 0;
};

}  // namespace

Json linear_report_json(const LinearReport& report) {
  Json json;
  json["name"] = report.name;
  json["sqnr_db"] = finite_or_null(report.sqnr_db);
  json["relative_output_error"] =
      report.output_error < 0.0 ? Json(nullptr) : finite_or_null(report.output_error);
  json["input_kurtosis_before"] = finite_or_null(report.kurtosis_before);
  json["input_kurtosis_after"] = finite_or_null(report.kurtosis_after);
  json["seconds"] = report.seconds;
  if (report.num_attempts > 0) {
    json["damping"] = report.damping;
    json["cholesky_attempts"] = report.num_attempts;
    json["dead_channels"] = report.num_dead;
  }
  if (report.expert_tokens >= 0) json["expert_tokens"] = report.expert_tokens;
  if (report.rounded_to_nearest) json["rounded_to_nearest"] = true;
  return json;
}

LinearReport parse_linear_report(const Json& json, const std::string& where) {
  LinearReport report;
  report.name = json_string(json, "name", where);
  report.sqnr_db = number_or_nan(json, "sqnr_db", where);
  const double error = number_or_nan(json, "relative_output_error", where);
  report.output_error = std::isnan(error) ? -1.0 : error;
  report.kurtosis_before = number_or_nan(json, "input_kurtosis_before", where);
  report.kurtosis_after = number_or_nan(json, "input_kurtosis_after", where);
  report.seconds = json_number(json, "seconds", where);
  if (json.contains("damping")) {
    report.damping = json_number(json, "damping", where);
    report.num_attempts = json_int(json, "cholesky_attempts", where);
    report.num_dead = json_int(json, "dead_channels", where);
  }
  if (json.contains("expert_tokens")) {
    report.expert_tokens = json_int(json, "expert_tokens", where);
  }
  if (json.contains("rounded_to_nearest")) {
    report.rounded_to_nearest = json_bool(json, "rounded_to_nearest", where);
  }
  return report;
}

Json quantize_report_json(const std::vector<LinearReport>& reports) {
  Json layers = Json::array();
  Mean sqnr, error, before, after;
  double seconds = 0.0;
  const LinearReport* worst = nullptr;
  for (const LinearReport& report : reports) {
    layers.push_back(linear_report_json(report));
    sqnr.add(report.sqnr_db);
    if (report.output_error >= 0.0) error.add(report.output_error);
    before.add(report.kurtosis_before);
    after.add(report.kurtosis_after);
    seconds += report.seconds;
    if (worst == nullptr || report.output_error > worst->output_error) worst = &report;
  }
  Json totals;
  totals["layers"] = reports.size();
  totals["mean_sqnr_db"] = finite_or_null(sqnr.value());
  totals["mean_relative_output_error"] = finite_or_null(error.value());
  totals["mean_input_kurtosis_before"] = finite_or_null(before.value());
  totals["mean_input_kurtosis_after"] = finite_or_null(after.value());
  totals["seconds"] = seconds;
  if (worst != nullptr && worst->output_error >= 0.0) {
    totals["largest_relative_output_error"] = finite_or_null(worst->output_error);
    totals["largest_relative_output_error_layer"] = worst->name;
  }
  return {{"layers", layers}, {"totals", totals}};
}

}  // namespace osp
