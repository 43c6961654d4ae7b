// Feeds arbitrary bytes to the reader of recipes (TOML). An accepted recipe that resolves must
// equal what is read from the JSON that it is stored as.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/accepted.h"
#include "fuzz/memory_file.h"
#include "fuzz/mutator.h"
#include "osp/base/error.h"
#include "osp/train/config.h"

namespace {

using osp::fuzz::Dice;
using Lines = std::vector<std::string>;

Lines lines_of(std::string_view text) {
  Lines lines(1);
  for (const char c : text) {
    if (c == '\n') {
      lines.emplace_back();
    } else {
      lines.back() += c;
    }
  }
  return lines;
}

// A value that the field takes, mostly.
std::string some_value(const osp::FieldRef& field, Dice& dice) {
  static const std::string kTexts[] = {"4-4-4", "16-8-16", "mlp_input,mlp_product", "lm_head*=adam",
                                       "bf16",  "s3://a",  "\xC3\xA9\n\"",          ""};
  using Type = osp::FieldRef::Type;
  const osp::Json value = field.value();
  const Type type = field.type();
  if (type == Type::boolean) return dice.one_in(2) ? "true" : "false";
  if (type == Type::list) return R"([{path = "a", weight = 2}, {path = "b", name = "c"}])";
  if (type == Type::text) {
    if (!field.choices.empty()) return osp::Json(dice.one_of(field.choices)).dump();
    return dice.one_in(2) ? value.dump() : osp::Json(dice.one_of(kTexts)).dump();
  }
  if (type == Type::number) {
    constexpr double kFactors[] = {0, 0.5, 0.99, 1, 2, 3};
    return osp::Json(value.get<double>() * dice.one_of(kFactors)).dump();
  }
  if (dice.one_in(8)) return fmt::format("{}", osp::fuzz::some_number(dice));
  const auto number = value.get<int64_t>();
  const int64_t kNumbers[] = {number, number * 2, number / 2, number + 1, 1, 2, 3, 4, 8, 16, 64};
  return fmt::format("{}", dice.one_of(kNumbers));
}

// Any value that TOML has, or nearly.
std::string some_toml(Dice& dice) {
  static const std::string kValues[] = {"\"\"\"a\\\n  b\"\"\"",
                                        "'''c'''",
                                        "'x\\'",
                                        "1979-05-27T07:32:00Z",
                                        "07:32:00",
                                        "0x1F",
                                        "1_000",
                                        "0b11",
                                        "-0.0",
                                        "inf",
                                        "-nan",
                                        "+1.5e3",
                                        "[1, 2,]",
                                        "[[1], [\"a\"]]",
                                        "{a = 1, b.c = 2}",
                                        "{}",
                                        "[]",
                                        "\"\\u00e9\\U0001F600\"",
                                        "\"\\x\"",
                                        "9223372036854775808"};
  return dice.one_of(kValues);
}

// Gives the field a value where its section is, or in a section at the end.
void set_field(Lines& lines, const osp::FieldRef& field, const std::string& value) {
  const size_t dot = field.name.find('.');
  const std::string section = "[" + field.name.substr(0, dot) + "]";
  const std::string begin = field.name.substr(dot + 1) + " = ";
  auto line = std::find(lines.begin(), lines.end(), section);
  if (line == lines.end()) line = lines.insert(lines.end(), section);
  for (++line; line != lines.end() && !line->starts_with('['); ++line) {
    if (line->starts_with(begin)) break;
  }
  if (line == lines.end() || !line->starts_with(begin)) line = lines.insert(line, "");
  *line = begin + value;
}

// Gives a field another value, or changes, doubles or removes a line.
std::string mutated(std::string_view text, Dice& dice) {
  static osp::Recipe recipe;
  static const osp::FieldTable table = osp::recipe_table(recipe);
  Lines lines = lines_of(text);
  std::string& line = dice.one_of(lines);
  const auto place = lines.begin() + static_cast<std::ptrdiff_t>(dice.below(lines.size()));
  switch (dice.below(9)) {
    case 0:
      lines.erase(place);
      break;
    case 1:
      lines.insert(place, std::string(line));
      break;
    case 2:
      line = osp::fuzz::changed_bytes(line, dice);
      break;
    case 3:
      line = line.substr(0, line.find('=')) + "= " + some_toml(dice);
      break;
    default: {
      const osp::FieldRef& field = dice.one_of(table.fields());
      set_field(lines, field, some_value(field, dice));
    }
  }
  std::string result;
  for (const std::string& each : lines) result += (result.empty() ? "" : "\n") + each;
  return result;
}

}  // namespace

OSP_MUTATOR(mutated)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  osp::Recipe recipe;
  try {
    recipe = osp::load_recipe(osp::fuzz::memory_file("recipe.toml", data, size), {});
    recipe = osp::resolved_recipe(recipe, 64);
  } catch (const osp::Error&) {
    return 0;
  }
  osp::fuzz::accepted(data, size);
  const osp::Json stored = osp::parse_json(osp::recipe_json(recipe).dump(), "recipe.json");
  OSP_CHECK(osp::recipe_differences(stored, recipe).empty(), "{}",
            osp::recipe_differences(stored, recipe));
  OSP_CHECK(osp::recipe_hash(recipe).size() == 64, "hash");
  return 0;
}
