// Tokenizes and detokenizes records from stdin, so that tests can compare with other
// implementations.
//   tokenizer_probe TOKENIZER encode|encode-special|decode|decode-skip-special|token-texts
// A record is a little-endian u32 count and that many bytes (texts) or u32 ids. `encode` reads
// texts and writes id records, `decode` the other way round; `token-texts` reads ids and writes the
// text of each alone, joined. A tokenizer that cannot be read ends the program with osp's
// exit status.
#include <cstdio>
#include <string>
#include <vector>

#include "osp/base/error.h"
#include "osp/tokenizer/tokenizer.h"

namespace {

bool read_exactly(void* data, size_t size) { return std::fread(data, 1, size, stdin) == size; }

template <class Record>
bool read_record(Record& record) {
  uint32_t count = 0;
  if (!read_exactly(&count, sizeof(count))) return false;
  record.resize(count);
  return read_exactly(record.data(), count * sizeof(record[0]));
}

template <class Record>
void write_record(const Record& record) {
  const auto count = static_cast<uint32_t>(record.size());
  std::fwrite(&count, sizeof(count), 1, stdout);
  std::fwrite(record.data(), sizeof(record[0]), record.size(), stdout);
}

void run(const osp::Tokenizer& tokenizer, const std::string& mode) {
  if (mode == "encode" || mode == "encode-special") {
    const osp::EncodeOptions options{.add_special_tokens = mode == "encode-special"};
    std::string text;
    while (read_record(text)) write_record(tokenizer.encode(text, options));
    return;
  }
  std::vector<int32_t> ids;
  while (read_record(ids)) {
    if (mode == "token-texts") {
      std::string text;
      for (const int32_t id : ids) text += tokenizer.token_text(id);
      write_record(text);
    } else {
      write_record(tokenizer.decode(ids, mode == "decode-skip-special"));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: tokenizer_probe TOKENIZER MODE\n");
    return 2;
  }
  try {
    run(osp::Tokenizer::from_file(argv[1]), argv[2]);
    return 0;
  } catch (const osp::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return osp::exit_status(e.code());
  }
}
