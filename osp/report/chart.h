// A chart as data: plotly traces and axes, and beside them the same numbers as a table. Colours,
// fonts and line styles are chosen in the page's script from each trace's `meta.run`. Plotly reads
// markup in names and categories, so those are escaped (escaped_list() in chart_parts.h).
//
// Tested by tests/python/test_report_browser.py.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/report/html.h"

namespace osp {

struct Chart {
  std::string id;  // element id: a-z and '-'
  std::string title;
  std::string caption;  // what is drawn, with units
  Json traces = Json::array();
  Json layout = Json::object();
  HtmlTable table = {};
  std::vector<std::string> choices = {};  // names of alternatives; a trace's meta.choice says which
  size_t default_choice = 0;
  bool wide = false;         // takes the page's whole width
  bool over_tokens = false;  // the horizontal axis can be switched to time
  // Least width per category. A chart over many categories scrolls where they need more than the
  // page's width.
  double pixels_per_category = 0;
};

}  // namespace osp
