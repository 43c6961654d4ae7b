#include "osp/model/model_files.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

TEST(ModelFiles, EndTokensComeFromEveryFileThatNamesThem) {
  const TestFolder folder;
  const auto ids_with = [&](const char* config, const char* generation) {
    write_file_atomic(folder / "config.json", config);
    std::filesystem::remove(folder / "generation_config.json");
    if (*generation != '\0') write_file_atomic(folder / "generation_config.json", generation);
    return load_end_tokens(folder.path());
  };
  using Ids = std::vector<int64_t>;
  EXPECT_EQ(ids_with("{}", ""), Ids{});
  EXPECT_EQ(ids_with(R"({"eos_token_id": 3})", ""), Ids{3});
  EXPECT_EQ(ids_with("{}", R"({"eos_token_id": 4})"), Ids{4});
  EXPECT_EQ(ids_with("{}", R"({"eos_token_id": [4, 9]})"), (Ids{4, 9}));
  EXPECT_EQ(ids_with(R"({"eos_token_id": [3]})", R"({"eos_token_id": [9, 3, 4]})"), (Ids{3, 9, 4}));
  EXPECT_EQ(ids_with(R"({"eos_token_id": null})", R"({"eos_token_id": null})"), Ids{});
  write_file_atomic(folder / "generation_config.json", R"({"eos_token_id": "x"})");
  try {
    load_end_tokens(folder.path());
    FAIL() << "a text is no id";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("generation_config.json: eos_token_id is \"x\""),
              std::string::npos)
        << error.what();
  }
}

// The kind: a number of a file that wraps around when it is stored.
TEST(ModelFiles, AnEndTokenBeyond64BitsIsRefusedInEitherFile) {
  const TestFolder folder;
  for (const char* large : {"config.json", "generation_config.json"}) {
    write_file_atomic(folder / "config.json", "{}");
    write_file_atomic(folder / "generation_config.json", "{}");
    write_file_atomic(folder / large, R"({"eos_token_id": [1, 9223372036854775808]})");
    try {
      load_end_tokens(folder.path());
      ADD_FAILURE() << large;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::damaged) << error.what();
    }
  }
}

TEST(ModelFiles, EverythingBesideTheWeightsIsCarriedOverWhateverItsName) {
  const TestFolder folder;
  const std::string source = folder / "source", target = folder / "target";
  make_directories(source + "/additional_chat_templates");
  make_directories(source + "/other");
  make_directories(target);
  const std::string odd = "caf\xe9.txt";  // names are bytes
  for (const std::string& name : {std::string("tokenizer.json"), std::string("chat_template.jinja"),
                                  std::string("a name of 2030.json"),
                                  std::string("additional_chat_templates/tool.jinja"), odd}) {
    write_file_atomic(source + "/" + name, "content of " + name);
  }
  for (const char* name :
       {"config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
        "quantize.json", "quant_config.json", "hf_quant_config.json", ".hidden", "trainer.json",
        "other/config.json", "other/notes.txt"}) {
    write_file_atomic(source + "/" + name, "{}");
  }
  copy_model_files(source, target, target);
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(target)) {
    if (!entry.is_regular_file()) continue;
    const std::string name = entry.path().string().substr(target.size() + 1);
    found.push_back(name);
    EXPECT_EQ(read_file(entry.path().string()), "content of " + name);
  }
  EXPECT_EQ(found.size(), 5u);
}

TEST(ModelFiles, AnOutputInsideTheModelsOwnFolderIsNotCopiedIntoItself) {
  const TestFolder source;
  const std::string out = source / "q";
  write_file_atomic(source / "tokenizer.json", "{}");
  for (const char* ending : {".tmp", ".work"}) {
    make_directories(out + ending);
    write_file_atomic(out + ending + "/note.txt", "unfinished");
  }
  copy_model_files(source.path(), out + ".tmp", out);
  EXPECT_TRUE(path_exists(out + ".tmp/tokenizer.json"));
  EXPECT_FALSE(path_exists(out + ".tmp/q.tmp"));
  EXPECT_FALSE(path_exists(out + ".tmp/q.work"));
}

TEST(ModelFiles, ALinkThatLeadsNowhereIsAnErrorNotAnOmission) {
  const TestFolder source, target;
  std::filesystem::create_symlink("nowhere.json", source / "chat_template.jinja");
  EXPECT_THROW(copy_model_files(source.path(), target.path(), target / "out"), Error);
}

TEST(ModelFiles, TheChatTemplateIsFoundInItsOwnFileOrTheTokenizersConfiguration) {
  const TestFolder folder;
  EXPECT_EQ(load_chat_template(folder.path()), "");
  write_file_atomic(folder / "tokenizer_config.json", R"({"chat_template": "{{ old }}"})");
  EXPECT_EQ(load_chat_template(folder.path()), "{{ old }}");
  write_file_atomic(folder / "chat_template.jinja", "{{ new }}");
  EXPECT_EQ(load_chat_template(folder.path()), "{{ new }}");
}

TEST(ModelFiles, SpecialTokenTextsComeFromEitherFileAsTextOrObject) {
  const TestFolder folder;
  EXPECT_EQ(load_special_token_texts(folder.path()).end, "");
  write_file_atomic(folder / "special_tokens_map.json",
                    R"({"bos_token": "<map>", "eos_token": {"content": "</map>"}})");
  EXPECT_EQ(load_special_token_texts(folder.path()).begin, "<map>");
  write_file_atomic(folder / "tokenizer_config.json",
                    R"({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": null})");
  const SpecialTokenTexts texts = load_special_token_texts(folder.path());
  EXPECT_EQ(texts.begin, "<s>");
  EXPECT_EQ(texts.end, "</map>");
}

}  // namespace
}  // namespace osp
