// The style sheet and the script of the report's page.
#pragma once

namespace osp {

// Colours for light and dark, layout from a phone to a wide screen, print.
extern const char* const kPageStyle;

// Reads the charts from the page's JSON, gives them the colours of the current scheme and draws
// them; redraws when the scheme or a chart's choice changes. Sets data-drawn="N" on <html> when
// done.
extern const char* const kPageScript;

}  // namespace osp
