// Fields: what is accepted, what is refused, and what the refusal says.
#include "osp/base/fields.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "osp/base/table_list.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

struct Toy {
  bool flag = false;
  int64_t layers = 6;
  double lr = 1e-3;
  std::string kind = "adam";
  std::string note;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("flag", self.flag, "a switch");
    visit("layers", self.layers, Range{1, 1024}, "blocks");
    visit("lr", self.lr, Range{0, 10}, "rate");
    visit("kind", self.kind, Choices{{"adam", "muon"}}, "optimizer");
    visit("note", self.note, "free text");
  }
};

struct Fixture : ::testing::Test {
  Toy toy;
  FieldTable table;
  TestFolder own_folder;  // each test's own: they run side by side
  std::filesystem::path folder = own_folder.path();

  void SetUp() override { table.add("optim", toy); }

  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(folder / name) << text;
    return (folder / name).string();
  }
};

using Fields = Fixture;

TEST_F(Fields, TomlSetsEveryType) {
  load_toml(write("a.toml",
                  "[optim]\nflag = true\nlayers = 1_000\nlr = 3e-3\nkind = 'muon'\nnote = \"x\"\n"),
            table);
  EXPECT_TRUE(toy.flag);
  EXPECT_EQ(toy.layers, 1000);
  EXPECT_EQ(toy.lr, 3e-3);
  EXPECT_EQ(toy.kind, "muon");
  EXPECT_EQ(toy.note, "x");
}

TEST_F(Fields, AnIntegerIsANumberButAFractionIsNoInteger) {
  table.assign_text("optim.lr=1");
  EXPECT_EQ(toy.lr, 1.0);
  EXPECT_NE(message_of(ErrorCode::usage, [&] { table.assign_text("optim.layers=2.0"); })
                .find("an integer"),
            std::string::npos);
  EXPECT_EQ(toy.layers, 6);
}

TEST_F(Fields, AnUnknownKeyNamesFileLineAndTheNearestKey) {
  const std::string path = write("a.toml", "[optim]\nlayers = 2\nlayrs = 3\n");
  EXPECT_EQ(message_of(ErrorCode::usage, [&] { load_toml(path, table); }),
            path + ":3: unknown key optim.layrs; did you mean optim.layers?");
}

TEST_F(Fields, ARightKeyUnderAWrongSectionIsFound) {
  EXPECT_NE(message_of(ErrorCode::usage, [&] { table.assign_text("schedule.lr=1"); })
                .find("did you mean optim.lr?"),
            std::string::npos);
}

TEST_F(Fields, NothingIsSuggestedForAWordLikeNoOther) {
  EXPECT_EQ(message_of(ErrorCode::usage, [&] { table.assign_text("zzzzzz=1"); }),
            "--set zzzzzz=1: unknown key zzzzzz");
}

TEST_F(Fields, WrongTypesAreRefused) {
  for (const char* line : {"flag = 1", "layers = true", "layers = '3'", "lr = 'x'", "kind = 3",
                           "layers = [1]", "layers = 2020-01-01", "note = 1.5"}) {
    const std::string path = write("a.toml", std::string("[optim]\n") + line + "\n");
    const std::string message = message_of(ErrorCode::usage, [&] { load_toml(path, table); });
    EXPECT_EQ(message.rfind(path + ":2: optim.", 0), 0u) << message;
    EXPECT_NE(message.find("expected"), std::string::npos) << message;
  }
}

TEST_F(Fields, RangesAndChoicesAreChecked) {
  EXPECT_NE(message_of(ErrorCode::usage, [&] { table.assign_text("optim.layers=0"); })
                .find("from 1 to 1024"),
            std::string::npos);
  EXPECT_NE(message_of(ErrorCode::usage, [&] { table.assign_text("optim.lr=nan"); })
                .find("expected a number"),
            std::string::npos);
  EXPECT_NE(message_of(ErrorCode::usage, [&] { table.assign_text("optim.lr=inf"); })
                .find("expected a number"),
            std::string::npos);
  EXPECT_NE(message_of(ErrorCode::usage, [&] { table.assign_text("optim.kind=muom"); })
                .find("did you mean muon?"),
            std::string::npos);
  EXPECT_NE(message_of(ErrorCode::usage,
                       [&] { table.assign("optim.layers", Json(uint64_t{1} << 63), "x"); })
                .find("an integer"),
            std::string::npos);
}

TEST_F(Fields, AssignmentsOnTheCommandLineNeedAnEqualsSignAndOneValue) {
  EXPECT_NE(message_of(ErrorCode::usage, [&] { table.assign_text("optim.lr"); })
                .find("section.key=value"),
            std::string::npos);
  message_of(ErrorCode::usage, [&] { table.assign_text("optim.lr="); });
  message_of(ErrorCode::usage, [&] { table.assign_text("optim.lr=1\nflag=true"); });
  table.assign_text("optim.note=a = b");
  EXPECT_EQ(toy.note, "a = b");
  table.assign_text("optim.note=\"quoted\"");
  EXPECT_EQ(toy.note, "quoted");
}

TEST_F(Fields, ARecipeInheritsAndOverrides) {
  write("base.toml", "[optim]\nlayers = 2\nlr = 0.5\n");
  load_toml(write("child.toml", "inherit = \"base.toml\"\n[optim]\nlr = 0.25\n"), table);
  EXPECT_EQ(toy.layers, 2);
  EXPECT_EQ(toy.lr, 0.25);
}

TEST_F(Fields, InheritanceInACircleIsRefused) {
  write("a.toml", "inherit = \"b.toml\"\n");
  const std::string path = write("b.toml", "inherit = \"a.toml\"\n");
  EXPECT_NE(
      message_of(ErrorCode::usage, [&] { load_toml(path, table); }).find("inherits from itself"),
      std::string::npos);
}

// The kind: bytes of a file on which a library asserts.
TEST_F(Fields, BytesOnWhichTheTomlLibraryAssertsAreRefused) {
  const std::string nul = write("nul.toml", std::string("a = 1\n[\0ptim]\n", 15));
  EXPECT_EQ(message_of(ErrorCode::usage, [&] { load_toml(nul, table); }),
            nul + ":2: not TOML: has the control character 0x00");
  const std::string outside =
      write("outside.toml", "# \xC3\xA9 '\nb = \"\xC3\xA9\\\"#\"\n\xEF\xBB\xBE = 1\n");
  EXPECT_EQ(message_of(ErrorCode::usage, [&] { load_toml(outside, table); }),
            outside + ":3: not TOML: a character outside of strings that is not ASCII");
  const std::string caret = write("caret.toml", "a = 1\n[^optim]\n");
  EXPECT_NE(message_of(ErrorCode::usage, [&] { load_toml(caret, table); }).find("not TOML"),
            std::string::npos);
  const std::string bell = write("bell.toml", "[optim]\nname = \"a\x07\"\n");
  EXPECT_EQ(message_of(ErrorCode::usage, [&] { load_toml(bell, table); }),
            bell + ":2: not TOML: has the control character 0x07");
}

TEST_F(Fields, BrokenTomlNamesTheLine) {
  const std::string path = write("a.toml", "[optim]\nlr = = 3\n");
  EXPECT_EQ(message_of(ErrorCode::usage, [&] { load_toml(path, table); })
                .rfind(path + ":2: not TOML: ", 0),
            0u);
  const std::string twice = write("twice.toml", "[optim]\nlr = 1\nlr = 2\n");
  EXPECT_EQ(message_of(ErrorCode::usage, [&] { load_toml(twice, table); })
                .rfind(twice + ":3: not TOML: ", 0),
            0u);
}

TEST_F(Fields, JsonRoundTripKeepsEveryBit) {
  toy.lr = 0.1 + 0.2;
  toy.note = "a \"b\" é";
  const Json object = parse_json(table.to_json().dump(), "test");
  const Toy before = toy;
  toy = Toy{};
  table.from_json(object, "test");
  EXPECT_EQ(toy.lr, before.lr);
  EXPECT_EQ(toy.note, before.note);
  EXPECT_NE(message_of(ErrorCode::usage,
                       [&] {
                         table.from_json(Json{{"optim", {{"lrr", 1}}}}, "f.json");
                       })
                .find("did you mean optim.lr?"),
            std::string::npos);
}

struct ToyOptions {
  std::vector<std::string> inputs;
  uint64_t seed = 3;
  int64_t windows = 128;
  int64_t threads = 0;
  int64_t width = 4;
  Toy toy;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("inputs", self.inputs, "files", {.positional = true, .required = true});
    visit.group("Calibration");
    visit("windows", self.windows, Range{1, 1000}, "number of windows", {.formerly = "samples"});
    visit("seed", self.seed, Range{}, "seed of the windows");
    visit("width", parsed_text(self.width, parse_width, show_width), "width");
    visit.group("Speed");
    visit("threads", self.threads, Range{0, 8}, "threads", {.affects_results = false});
    Toy::fields(visit, self.toy);
  }
  static int64_t parse_width(const std::string& text) { return static_cast<int64_t>(text.size()); }
  static std::string show_width(int64_t width) {
    return std::string(static_cast<size_t>(width), 'x');
  }
};

TEST(FieldTraits, GroupsAndNestedStructsKeepTheOrderOfDeclaration) {
  ToyOptions options;
  FieldTable table;
  table.add("", options);
  EXPECT_EQ(table.fields()[0].group, "");
  EXPECT_EQ(table.find("seed", "").group, "Calibration");
  EXPECT_EQ(table.find("windows", "").traits.formerly, "samples");
  EXPECT_EQ(table.find("layers", "").group, "Speed");
}

TEST(FieldTraits, ListsParsedTextAndUnsignedNumbersAreAssignedAndShown) {
  ToyOptions options;
  FieldTable table;
  table.add("", options);
  table.assign("inputs", Json{"a", "b"}, "x");
  table.assign("width", "12345", "x");
  table.assign("seed", uint64_t{1} << 63, "x");
  EXPECT_EQ(options.inputs, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(options.width, 5);
  EXPECT_EQ(options.seed, uint64_t{1} << 63);
  EXPECT_EQ(table.to_json()["width"], "xxxxx");
  message_of(ErrorCode::usage, [&] { table.assign("seed", -1, "x"); });
  message_of(ErrorCode::usage, [&] { table.assign("inputs", Json{"a", 1}, "x"); });
}

struct Corpus {
  std::string path;
  double weight = 1;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("path", self.path, "folder");
    visit("weight", self.weight, Range{0, 10}, "part of all");
  }
};

struct Corpora {
  std::vector<Corpus> corpora;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("corpus", table_list(self.corpora, "data.corpus"), "corpora");
  }
};

TEST(TableList, ComesFromTomlAndJsonAndIsShownAsAList) {
  TestFolder folder;
  Corpora read;
  FieldTable table;
  table.add("data", read);
  EXPECT_EQ(table.to_json().dump(), R"({"data":{"corpus":[]}})");
  load_toml(folder.write("a.toml", "[[data.corpus]]\npath = \"a\"\n[[data.corpus]]\nweight = 2\n"),
            table);
  ASSERT_EQ(read.corpora.size(), 2u);
  EXPECT_EQ(read.corpora[0].path, "a");
  EXPECT_EQ(read.corpora[1].weight, 2);
  const Json shown = table.to_json();
  EXPECT_EQ(shown["data"]["corpus"][1]["weight"], 2);
  Corpora again;
  FieldTable other;
  other.add("data", again);
  other.from_json(shown, "recipe.json");
  EXPECT_EQ(other.to_json(), shown);
  // A list replaces the one before as a whole.
  other.assign_text(R"(data.corpus=[{"path": "b"}])");
  ASSERT_EQ(again.corpora.size(), 1u);
  EXPECT_EQ(again.corpora[0].path, "b");
  expect_error(ErrorCode::usage, {"b.toml:1", "data.corpus 1", "wieght", "weight"},
               [&] { load_toml(folder.write("b.toml", "[[data.corpus]]\nwieght = 2\n"), table); });
  expect_error(ErrorCode::usage, {"x", "data.corpus 2", "11", "0 to 10"}, [&] {
    other.assign("data.corpus", Json::parse(R"([{"weight": 1}, {"weight": 11}])"), "x");
  });
  expect_error(ErrorCode::usage, {"[[data.corpus]]"},
               [&] { other.assign("data.corpus", "a text", "x"); });
  EXPECT_EQ(again.corpora[0].path, "b");  // a refused list changes nothing
}

TEST(ResultsJson, IsSortedAndOmitsWhatDoesNotAffectResults) {
  ToyOptions options;
  FieldTable table;
  table.add("", options);
  const std::string before = results_json(table).dump();
  EXPECT_EQ(before, R"({"flag":false,"inputs":[],"kind":"adam","layers":6,"lr":0.001,"note":"",)"
                    R"("seed":3,"width":"xxxx","windows":128})");
  options.threads = 4;
  EXPECT_EQ(results_json(table).dump(), before);
  options.seed = 4;
  EXPECT_NE(results_json(table).dump(), before);
}

TEST(ConfigHash, SeesTheValuesThatAffectResultsAndNoOthers) {
  ToyOptions options;
  FieldTable table;
  table.add("", options);
  const std::string before = config_hash(table);
  options.threads = 4;
  EXPECT_EQ(config_hash(table), before);
  options.toy.layers = 7;
  EXPECT_NE(config_hash(table), before);
}

TEST(NearestName, AcceptsAThirdOfTheLengthAndNoMore) {
  EXPECT_EQ(nearest_name("layrs", {"width", "layers"}), "layers");
  EXPECT_EQ(nearest_name("trian", {"train", "eval"}),
            "train");  // two neighbours swapped count as one
  EXPECT_EQ(nearest_name("abcdef", {"abcdxy"}), "abcdxy");
  EXPECT_EQ(nearest_name("abcdef", {"abcxyz"}), "");
}

}  // namespace
}  // namespace osp
