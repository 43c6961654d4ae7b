#include "osp/report/page.h"

#include <gtest/gtest.h>

#include <cmath>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr const char* kHostile =
    "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>";

RunData long_run(const std::string& text, int num_steps) {
  RunData run;
  run.name = run.key = run.label = text;
  run.recipe = {{text, {{text, text}}}};
  run.start = {{text, text}};
  run.samples = {{1, text, text}};
  run.last_validation.largest = {
      .value = 3, .layer = 1, .position = 0, .channel = 2, .token = text};
  run.evaluation = {{text, 3.0}};
  run.missing = {text};
  for (int i = 0; i < num_steps; ++i) {
    for (Series* series : {&run.loss, &run.learning_rate, &run.gradient_norm, &run.kurtosis,
                           &run.largest, &run.validation_loss, &run.attention_logit}) {
      series->add(i, 1 + std::sin(0.1 * i + 1e-7 * i * i));
    }
  }
  return run;
}

size_t count(const std::string& text, const std::string& part) {
  size_t number = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++number;
  return number;
}

TEST(Page, TextFromRunsNeverBecomesMarkup) {
  const std::string page = render_page({.runs = {long_run(kHostile, 20)}},
                                       {.title = kHostile, .command = kHostile}, "var p=1;");
  EXPECT_EQ(count(page, "<script"), 3u);  // the data, the library, our own
  EXPECT_EQ(count(page, "</script"), 3u);
  EXPECT_EQ(count(page, "<img"), 0u);
  EXPECT_EQ(count(page, "<!--"), 0u);
}

TEST(Page, LoadsNothingAndAllowsOnlyItsOwnScripts) {
  const std::string page = render_page({.runs = {long_run("run", 20)}}, {}, "var p=1;");
  EXPECT_EQ(count(page, "src="), 0u);
  EXPECT_EQ(count(page, "href="), count(page, "href=\"#"));
  EXPECT_EQ(count(page, "url("), 0u);
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
  // printf 'var p=1;' | openssl dgst -sha256 -binary | base64
  EXPECT_NE(page.find("'sha256-zM9Pv/vWQtrNpY0EWTIY23CqCjr1JCzbaw9KxPTMgZE='"), std::string::npos);
}

TEST(Page, OfARaceAloneHasItsSentenceAndChartsAndNoTableOfModels) {
  const Race race{.arms = {"Adam<", "OSP"},
                  .pairs = {{.tokens = 1000, .seed = 1, .runs = {{{3, 0.2, 0.1}, {2, 0.1, 0}}}}}};
  const std::string page = render_page({.race = race}, {}, "var p=1;");
  EXPECT_EQ(count(page, "<title>Adam&lt; and OSP</title>"), 1u);
  EXPECT_EQ(count(page, "<p class=\"headline\">After 1,000 tokens of training Adam&lt; loses 2.00"),
            1u);
  EXPECT_EQ(count(page, "<figure"), 2u);
  EXPECT_EQ(count(page, "id=\"results\"") + count(page, "id=\"claims\""), 0u);
  EXPECT_THROW(render_page({}, {}, "var p=1;"), std::exception);
}

TEST(Page, ManyLongRunsStayBelowTheLimit) {
  std::vector<RunData> runs;
  for (int i = 0; i < 20; ++i) runs.push_back(long_run(fmt::format("run {}", i), 2500));
  const std::string library(4'800'000, 'x');
  EXPECT_LE(render_page({.runs = runs}, {}, library).size(), kMaxPageBytes);
}

TEST(Page, RefusesALibraryThatWouldEndItsScript) {
  EXPECT_THROW(render_page({.runs = {long_run("run", 20)}}, {}, "'</script>'"), Error);
}

}  // namespace
}  // namespace osp
