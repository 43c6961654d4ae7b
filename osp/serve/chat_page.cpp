#include "osp/serve/chat_page.h"

#include "osp/base/error.h"
#include "osp/http/content_policy.h"

namespace osp {
namespace {

// Puts `content` between the tags of the one empty element with this name.
void fill_element(std::string& page, const std::string& name, const std::string& content) {
  const std::string open = "<" + name + ">", empty = open + "</" + name + ">";
  const size_t place = page.find(empty);
  OSP_CHECK(place != std::string::npos, "chat_page.html has no {}", empty);
  page.insert(place + open.size(), content);
}

HttpResponse make_page() {
  std::string page = chat_page_html();
  fill_element(page, "style", chat_page_css());
  fill_element(page, "script", chat_page_js());
  // The icon is a data: address.
  const std::string policy = fmt::format(
      "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; "
      "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
      content_hash(chat_page_js()), content_hash(chat_page_css()));
  return {.type = "text/html; charset=utf-8",
          .body = std::make_shared<const std::string>(std::move(page)),
          .fields = "Content-Security-Policy: " + policy + "\r\n"};
}

}  // namespace

HttpResponse chat_page_response() {
  static const HttpResponse page = make_page();
  return page;
}

}  // namespace osp
