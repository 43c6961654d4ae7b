// The page of `osp serve`: a chat with the model in a browser. Its parts are the files
// chat_page.html, chat_page.css and chat_page.js, which the build embeds (cmake/embed.cmake).
//
// Tested by chat_page_test.cpp and tests/python/test_serve_page.py.
#pragma once

#include <string>

#include "osp/http/http_message.h"

namespace osp {

const std::string& chat_page_html();  // with an empty <style> and an empty <script>
const std::string& chat_page_css();
const std::string& chat_page_js();

// The whole page. Its content security policy allows this style and this script, requests to this
// server, and nothing else.
HttpResponse chat_page_response();

}  // namespace osp
