#include "osp/tokenizer/post.h"

#include <algorithm>
#include <utility>

namespace osp::tokenizer {
namespace {

constexpr size_t kMaxTemplateIds = 1024;

}  // namespace

PostProcessor::PostProcessor(const Component& component) { add(component); }

void PostProcessor::add(const Component& component) {
  const std::string type = component.type();
  if (type == "Sequence") {
    for (const Component& part : component.list("processors")) add(part);
  } else if (type == "TemplateProcessing") {
    add_template(component);
  } else if (type != "ByteLevel") {
    component.unsupported("post-processor", "TemplateProcessing, ByteLevel, Sequence");
  }
}

void PostProcessor::add_template(const Component& component) {
  if (parts_.size() > 2) {
    fail(ErrorCode::unsupported,
         "{}: a template behind one that gives {} parts; there are templates for one and for two",
         component.where, parts_.size());
  }
  std::vector<Part> made;
  std::vector<bool> taken(parts_.size());
  size_t num_ids = 0;
  const Component special_tokens = component.child("special_tokens");
  for (const Component& part : component.list(parts_.size() == 1 ? "single" : "pair")) {
    // A part that was there before, once.
    if (part.json.is_object() && part.has("Sequence")) {
      const std::string id = part.child("Sequence").text("id");
      const size_t index = id == "A" ? 0 : 1;
      if (index >= parts_.size() || (id != "A" && id != "B")) {
        fail(ErrorCode::damaged, "{}: sequence \"{}\" in the template for {}, expected \"A\"{}",
             part.where, printable(id), parts_.size() == 1 ? "one text" : "two texts",
             parts_.size() == 1 ? "" : " or \"B\"");
      }
      if (taken[index]) {
        fail(ErrorCode::unsupported, "{}: the template has the text \"{}\" more than once",
             part.where, id);
      }
      taken[index] = true;
      made.push_back(parts_[index]);
    } else if (part.json.is_object() && part.has("SpecialToken")) {
      // A special token: the ids of its entry.
      const std::string name = part.child("SpecialToken").text("id");
      if (!special_tokens.json.is_object() || !special_tokens.has(name)) {
        fail(ErrorCode::damaged, "{}: special token \"{}\" has no entry in special_tokens",
             part.where, printable(name));
      }
      const Component token = special_tokens.child(name);
      Part special{false, {}};
      for (const Component& id : token.list("ids")) {
        if (as_token_id(id.json) < 0) {
          fail(ErrorCode::damaged, "{}: {}, expected a token id", id.where, shown(id.json));
        }
        special.ids.push_back(as_token_id(id.json));
        if (++num_ids > kMaxTemplateIds) {
          fail(ErrorCode::unsupported, "{}: more than {} special tokens in a template",
               component.where, kMaxTemplateIds);
        }
      }
      made.push_back(std::move(special));
    } else {
      fail(ErrorCode::damaged, "{}: expected a \"Sequence\" or a \"SpecialToken\"", part.where);
    }
  }
  parts_ = std::move(made);
}

size_t PostProcessor::num_before() const {
  size_t count = 0;
  for (const Part& part : parts_) {
    if (part.text) break;
    count += part.ids.size();
  }
  return count;
}

size_t PostProcessor::num_after() const {
  size_t count = 0;
  for (auto part = parts_.rbegin(); part != parts_.rend() && !part->text; ++part) {
    count += part->ids.size();
  }
  return count;
}

void PostProcessor::apply(std::vector<int32_t>& ids, size_t from) const {
  const std::vector<int32_t> text(ids.begin() + static_cast<ptrdiff_t>(from), ids.end());
  ids.resize(from);
  for (const Part& part : parts_) {
    const std::vector<int32_t>& added = part.text ? text : part.ids;
    ids.insert(ids.end(), added.begin(), added.end());
  }
}

}  // namespace osp::tokenizer
