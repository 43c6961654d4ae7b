#include "osp/data/text_reader_stream.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>

#include <cerrno>
#include <cstdio>
#include <system_error>
#include <vector>

#include "osp/base/error.h"
#include "osp/data/object_store.h"

namespace osp {
namespace {

constexpr size_t kInputBytes = 256 << 10;

class PlainStream final : public ByteStream {
 public:
  explicit PlainStream(const std::string& path)
      : path_(path), file_(std::fopen(path.c_str(), "rb")) {
    if (file_ == nullptr) fail_io("open");
  }
  ~PlainStream() override { std::fclose(file_); }

  size_t read(char* out, size_t size) override {
    const size_t count = std::fread(out, 1, size, file_);
    if (count < size && std::ferror(file_) != 0) fail_io("read");
    position_ += count;
    return count;
  }
  uint64_t file_bytes_read() const override { return position_; }

 private:
  [[noreturn]] void fail_io(const char* action) const {
    fail(ErrorCode::io, "{}: cannot {}: {}", path_, action, std::generic_category().message(errno));
  }

  std::string path_;
  std::FILE* file_;
  uint64_t position_ = 0;
};

std::unique_ptr<ByteStream> open_plain(const std::string& path) {
  if (is_store_uri(path)) return ObjectStore(path).open("");
  return std::make_unique<PlainStream>(path);
}

// A piece of the packed file that the decompressor works on.
class Input {
 public:
  explicit Input(const std::string& path) : file_(open_plain(path)), buffer_(kInputBytes) {}
  // False at the end of the file.
  bool refill() {
    size_ = file_->read(buffer_.data(), buffer_.size());
    used_ = 0;
    return size_ > 0;
  }
  const char* data() const { return buffer_.data() + used_; }
  size_t available() const { return size_ - used_; }
  void use(size_t count) { used_ += count; }
  uint64_t position() const { return file_->file_bytes_read() - available(); }

 private:
  std::unique_ptr<ByteStream> file_;
  std::vector<char> buffer_;
  size_t size_ = 0, used_ = 0;
};

class GzipStream final : public ByteStream {
 public:
  explicit GzipStream(const std::string& path) : path_(path), input_(path) {
    constexpr int kGzipHeader = 16;
    OSP_CHECK(inflateInit2(&zlib_, MAX_WBITS + kGzipHeader) == Z_OK, "zlib");
  }
  ~GzipStream() override { inflateEnd(&zlib_); }

  size_t read(char* out, size_t size) override {
    size_t produced = 0;
    while (produced == 0 && size > 0) {
      if (input_.available() == 0 && !input_.refill()) {
        if (between_members_ && seen_member_) return 0;
        fail_damaged("ends inside the compressed data (truncated file)");
      }
      if (between_members_ && !begin_member()) continue;
      zlib_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input_.data()));
      zlib_.avail_in = static_cast<uInt>(input_.available());
      zlib_.next_out = reinterpret_cast<Bytef*>(out);
      zlib_.avail_out = static_cast<uInt>(std::min<size_t>(size, 1u << 30));
      const uInt before = zlib_.avail_in, room = zlib_.avail_out;
      const int status = inflate(&zlib_, Z_NO_FLUSH);
      input_.use(before - zlib_.avail_in);
      produced = room - zlib_.avail_out;
      if (status == Z_STREAM_END) {
        between_members_ = seen_member_ = true;
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        fail_damaged(zlib_.msg != nullptr ? zlib_.msg : "not a gzip file");
      }
    }
    return produced;
  }
  uint64_t file_bytes_read() const override { return input_.position(); }

 private:
  // Zeros may pad the end of a gzip file; anything else must be a further member.
  bool begin_member() {
    if (seen_member_ && *input_.data() == '\0') {
      input_.use(1);
      return false;
    }
    inflateReset(&zlib_);
    between_members_ = false;
    return true;
  }
  [[noreturn]] void fail_damaged(const char* what) const {
    fail(ErrorCode::damaged, "{}: gzip data at byte {}: {}", path_, input_.position(), what);
  }

  std::string path_;
  Input input_;
  z_stream zlib_{};
  bool between_members_ = true, seen_member_ = false;
};

class ZstdStream final : public ByteStream {
 public:
  explicit ZstdStream(const std::string& path)
      : path_(path), input_(path), context_(ZSTD_createDStream()) {
    OSP_CHECK(context_ != nullptr, "zstd");
  }
  ~ZstdStream() override { ZSTD_freeDStream(context_); }

  size_t read(char* out, size_t size) override {
    ZSTD_outBuffer output{out, size, 0};
    while (output.pos == 0 && size > 0) {
      if (input_.available() == 0 && !flushing_ && !input_.refill()) {
        if (frame_complete_) return 0;
        fail_damaged("ends inside the compressed data (truncated file)");
      }
      ZSTD_inBuffer input{input_.data(), input_.available(), 0};
      const size_t status = ZSTD_decompressStream(context_, &output, &input);
      input_.use(input.pos);
      if (ZSTD_isError(status)) fail_damaged(ZSTD_getErrorName(status));
      frame_complete_ = status == 0;
      flushing_ = output.pos == output.size && !frame_complete_;
    }
    return output.pos;
  }
  uint64_t file_bytes_read() const override { return input_.position(); }

 private:
  [[noreturn]] void fail_damaged(const char* what) const {
    fail(ErrorCode::damaged, "{}: zstd data at byte {}: {}", path_, input_.position(), what);
  }

  std::string path_;
  Input input_;
  ZSTD_DStream* context_;
  bool frame_complete_ = false;
  bool flushing_ = false;  // the decompressor may hold output that did not fit
};

}  // namespace

std::unique_ptr<ByteStream> open_byte_stream(const std::string& path, Compression compression) {
  switch (compression) {
    case Compression::gzip:
      return std::make_unique<GzipStream>(path);
    case Compression::zstd:
      return std::make_unique<ZstdStream>(path);
    case Compression::none:
      break;
  }
  return open_plain(path);
}

}  // namespace osp
