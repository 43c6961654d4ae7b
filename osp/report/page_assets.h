// The style sheet and the script of the report's page: the files page.css, page.js and claims.json,
// which the build embeds (cmake/embed.cmake).
#pragma once

#include <string>

namespace osp {

// Colours for light and dark, layout from a phone to a wide screen, print.
const std::string& page_css();

// Reads the charts from the page's JSON, gives them the colours of the current scheme and draws
// them; redraws when the scheme, the axis, the smoothing or a chart's choice changes. A page that
// is served polls for changes and takes them over in place. Sets data-drawn="N" on <html>
// when done.
const std::string& page_js();

// The claims of the paper, and how they are judged (claims.h).
const std::string& claims_json();

}  // namespace osp
