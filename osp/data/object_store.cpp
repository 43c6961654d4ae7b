#include "osp/data/object_store.h"

#include <arrow/buffer.h>
#include <arrow/filesystem/filesystem.h>
#include <arrow/filesystem/s3fs.h>
#include <arrow/io/interfaces.h>
#include <arrow/result.h>
#include <arrow/util/future.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string_view>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/printable.h"

namespace osp {
namespace {

constexpr size_t kStoreMessageBytes = 200;  // longest quotation of a store's message
// Each piece is a request of its own: large enough that the way there and back does not matter.
constexpr int64_t kPieceBytes = 8 << 20;
constexpr size_t kPiecesAhead = 4;
constexpr int64_t kAttempts = 4;
constexpr const char* kGcsRetrySeconds = "10";
constexpr const char* kPlugInVariable = "OSP_ARROW_S3";

// The parts of scheme://authority/path?query.
struct UriParts {
  std::string scheme, authority, path, query;
};

UriParts split_uri(const std::string& uri) {
  UriParts parts;
  const size_t colon = uri.find("://");
  parts.scheme = uri.substr(0, colon);
  std::string rest = uri.substr(colon + 3);
  if (const size_t mark = rest.find('?'); mark != std::string::npos) {
    parts.query = rest.substr(mark + 1);
    rest.resize(mark);
  }
  const size_t slash = std::min(rest.find('/'), rest.size());
  parts.authority = rest.substr(0, slash);
  parts.path = rest.substr(slash);
  return parts;
}

// A few attempts in a few seconds, where Arrow's own strategy goes on for longer than anybody wants
// to wait for the news that a store cannot be reached.
class FewRetries final : public arrow::fs::S3RetryStrategy {
 public:
  bool ShouldRetry(const AWSErrorDetail& error, int64_t attempted_retries) override {
    return error.should_retry && attempted_retries + 1 < kAttempts;
  }
  int64_t CalculateDelayBeforeNextRetry(const AWSErrorDetail&, int64_t attempted) override {
    return int64_t{200} << (2 * std::min<int64_t>(attempted, 4));  // 0.2, 0.8, 3.2 s
  }
};

// libarrow_s3.so beside libarrow.so, with the same version behind its name.
std::string plug_in_path() {
  if (const char* chosen = std::getenv(kPlugInVariable)) return chosen;
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&arrow::fs::EnsureFinalized), &info) == 0) return "";
  std::string path = info.dli_fname;
  const std::string name = "libarrow.so";
  const size_t at = path.rfind(name);
  return at == std::string::npos ? "" : path.replace(at, name.size(), "libarrow_s3.so");
}

// Loads Arrow's plug-in for S3, once in the life of the process.
void load_s3() {
  static std::mutex mutex;
  static bool loaded = false;
  const std::lock_guard lock(mutex);
  if (loaded) return;
  const std::string path = plug_in_path();
  if (!path_exists(path)) {
    fail(ErrorCode::unsupported,
         "{}: Arrow's plug-in for s3:// is not there; it comes with the pyarrow package of version "
         "26 ({} names it where it lies elsewhere)",
         path.empty() ? "libarrow_s3.so" : path, kPlugInVariable);
  }
  const arrow::Status status = arrow::fs::LoadFileSystemFactories(path.c_str());
  if (!status.ok()) {
    fail(ErrorCode::unsupported, "{}: Arrow's plug-in for s3:// cannot be loaded: {}", path,
         printable(status.message(), kStoreMessageBytes));
  }
  loaded = true;
}

// The plug-in's threads must be gone before its objects are, which it makes with its first file
// system: who registers after that is called before they are destroyed.
void finalize_at_exit() {
  static std::once_flag registered;
  std::call_once(registered, [] { std::atexit([] { arrow::fs::EnsureFinalized(); }); });
}

bool has_any(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::any_of(words.begin(), words.end(), [&](std::string_view word) {
    return text.find(word) != std::string_view::npos;
  });
}

bool is_absent(const arrow::Status& status) {
  return has_any(status.message(), {"Path does not exist", "NO_SUCH_KEY", "NOT_FOUND",
                                    "No such file or directory", "as a directory"});
}

// A failure of the store in one sentence: what it was about, what happened, what to do.
[[noreturn]] void fail_store(const arrow::Status& status, const std::string& uri) {
  const std::string& message = status.message();
  const std::string quoted = printable(message, kStoreMessageBytes);
  const bool s3 = uri.starts_with("s3:");
  if (has_any(message, {"NO_SUCH_BUCKET", "The specified bucket does not exist"})) {
    fail(ErrorCode::usage, "{}: no such bucket; check its name and the endpoint", uri);
  }
  if (is_absent(status)) {
    fail(ErrorCode::usage, "{}: nothing has that name in the bucket; check the URI", uri);
  }
  if (has_any(message, {"ACCESS_DENIED", "Access Denied", "PERMISSION_DENIED", "UNAUTHENTICATED",
                        "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN",
                        "INVALID_SIGNATURE", "EXPIRED_TOKEN", "ExpiredToken", "HTTP 403",
                        "HTTP 401", "credentials", "to authenticate"})) {
    fail(ErrorCode::usage, "{}: the store refuses access ({}); {}", uri, quoted,
         s3 ? "give credentials that may list and read the bucket: AWS_ACCESS_KEY_ID and "
              "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            : "give credentials that may list and read the bucket: "
              "GOOGLE_APPLICATION_CREDENTIALS, or gs://anonymous@BUCKET/… for a public one");
  }
  fail(ErrorCode::io, "{}: the store does not answer as it should ({}); check the network{}", uri,
       quoted,
       s3 ? ", the region and the endpoint (?region=…&endpoint_override=HOST:PORT&scheme=http)"
          : " and the endpoint (?endpoint_override=HOST:PORT&scheme=http)");
}

template <class Value>
Value stored_value(arrow::Result<Value> result, const std::string& uri) {
  if (!result.ok()) fail_store(result.status(), uri);
  return std::move(result).ValueUnsafe();
}

// A file in one request, as Google's client likes it: opening one for pieces asks for the whole as
// well.
class WholeStream final : public ByteStream {
 public:
  WholeStream(std::shared_ptr<arrow::io::InputStream> file, std::string uri)
      : file_(std::move(file)), uri_(std::move(uri)) {}

  size_t read(char* out, size_t size) override {
    const auto count =
        static_cast<size_t>(stored_value(file_->Read(static_cast<int64_t>(size), out), uri_));
    position_ += count;
    return count;
  }
  uint64_t file_bytes_read() const override { return position_; }

 private:
  std::shared_ptr<arrow::io::InputStream> file_;
  std::string uri_;
  uint64_t position_ = 0;
};

// A file in pieces, some of them under way while one is read.
class PieceStream final : public ByteStream {
 public:
  PieceStream(std::shared_ptr<arrow::io::RandomAccessFile> file, std::string uri)
      : file_(std::move(file)), uri_(std::move(uri)), size_(stored_value(file_->GetSize(), uri_)) {}
  ~PieceStream() override {
    for (auto& piece : ahead_) piece.Wait();
  }

  size_t read(char* out, size_t size) override {
    while (used_ == (piece_ ? piece_->size() : 0)) {
      if (!next_piece()) return 0;
    }
    const size_t count = std::min<size_t>(size, static_cast<size_t>(piece_->size() - used_));
    std::memcpy(out, piece_->data() + used_, count);
    used_ += static_cast<int64_t>(count);
    position_ += count;
    return count;
  }
  uint64_t file_bytes_read() const override { return position_; }

 private:
  bool next_piece() {
    for (; ahead_.size() < kPiecesAhead && asked_ < size_; asked_ += kPieceBytes) {
      ahead_.push_back(file_->ReadAsync(asked_, std::min(kPieceBytes, size_ - asked_)));
    }
    if (ahead_.empty()) return false;
    const arrow::Result<std::shared_ptr<arrow::Buffer>> result = ahead_.front().result();
    ahead_.pop_front();
    piece_ = stored_value(result, uri_);
    used_ = 0;
    const int64_t expected = std::min(kPieceBytes, size_ - received_);
    if (piece_->size() != expected) {
      fail(ErrorCode::io,
           "{}: {} bytes came where {} were asked for; the file has changed: start "
           "again",
           uri_, piece_->size(), expected);
    }
    received_ += expected;
    return true;
  }

  std::shared_ptr<arrow::io::RandomAccessFile> file_;
  std::string uri_;
  int64_t size_ = 0, asked_ = 0, received_ = 0;
  std::deque<arrow::Future<std::shared_ptr<arrow::Buffer>>> ahead_;
  std::shared_ptr<arrow::Buffer> piece_;
  int64_t used_ = 0;
  uint64_t position_ = 0;
};

}  // namespace

bool is_store_uri(const std::string& path) {
  return path.starts_with("s3://") || path.starts_with("gs://");
}

std::string uri_without_query(const std::string& uri) {
  return is_store_uri(uri) ? uri.substr(0, uri.find('?')) : uri;
}

std::string join_uri(const std::string& uri, const std::string& name) {
  std::string path = uri_without_query(uri);
  const std::string query = uri.substr(path.size());
  while (path.ends_with('/') && !path.ends_with("://")) path.pop_back();
  return path + (name.empty() ? "" : "/") + name + query;
}

struct ObjectStore::State {
  std::shared_ptr<arrow::fs::FileSystem> files;
  std::string path;  // bucket and key

  std::string path_of(const std::string& name) const {
    return name.empty() ? path : path + "/" + name;
  }
};

ObjectStore::ObjectStore(const std::string& uri)
    : uri_(join_uri(uri, "")), state_(std::make_unique<State>()) {
  const UriParts parts = split_uri(uri_);
  const size_t at = parts.authority.find('@');
  if (at != std::string::npos && parts.authority.find(':') < at) {
    fail(ErrorCode::usage,
         "{}://…@{}{}: a URI is written into logs and run folders and must not hold a secret; put "
         "the keys into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
         parts.scheme, parts.authority.substr(at + 1), parts.path);
  }
  if (parts.authority.empty()) {
    fail(ErrorCode::usage, "{}: names no bucket; expected {}://BUCKET/KEY", uri_, parts.scheme);
  }
  std::string complete = uri_;
  arrow::fs::FileSystemFactoryOptions options;
  if (parts.scheme == "s3") {
    load_s3();
    options.emplace_back("retry_strategy", std::shared_ptr<arrow::fs::S3RetryStrategy>(
                                               std::make_shared<FewRetries>()));
  } else if (parts.query.find("retry_limit_seconds=") == std::string::npos) {
    complete +=
        (parts.query.empty() ? "?" : "&") + std::string("retry_limit_seconds=") + kGcsRetrySeconds;
  }
  const auto opened = arrow::fs::FileSystemFromUriAndOptions(complete, options, &state_->path);
  if (parts.scheme == "s3") finalize_at_exit();
  if (!opened.ok() && opened.status().IsInvalid()) {
    fail(ErrorCode::usage, "{}: {}", uri_,
         printable(opened.status().message(), kStoreMessageBytes));
  }
  state_->files = stored_value(opened, uri_);
}

ObjectStore::~ObjectStore() = default;
ObjectStore::ObjectStore(ObjectStore&&) noexcept = default;
ObjectStore& ObjectStore::operator=(ObjectStore&&) noexcept = default;

std::vector<StoredFile> ObjectStore::list() const {
  arrow::fs::FileSelector below;
  below.base_dir = state_->path;
  below.recursive = true;
  const auto found = state_->files->GetFileInfo(below);
  std::vector<StoredFile> files;
  if (found.ok()) {
    const size_t prefix = state_->path.size() + 1;
    for (const arrow::fs::FileInfo& info : *found) {
      if (!info.IsFile()) continue;
      files.push_back({info.path().substr(prefix), static_cast<uint64_t>(info.size())});
    }
  }
  if (!found.ok() && !is_absent(found.status())) fail_store(found.status(), uri_);
  if (files.empty()) {
    // One file has the name, or nothing.
    const arrow::fs::FileInfo info = stored_value(state_->files->GetFileInfo(state_->path), uri_);
    if (!info.IsFile()) {
      fail_store(arrow::Status::IOError("Path does not exist"), uri_);
    }
    files.push_back({"", static_cast<uint64_t>(info.size())});
  }
  std::sort(files.begin(), files.end(),
            [](const StoredFile& a, const StoredFile& b) { return a.name < b.name; });
  return files;
}

std::unique_ptr<ByteStream> ObjectStore::open(const std::string& name, int64_t num_bytes) const {
  const std::string uri = join_uri(uri_, name);
  arrow::fs::FileInfo info(state_->path_of(name), arrow::fs::FileType::File);
  if (num_bytes >= 0) info.set_size(num_bytes);
  if (uri_.starts_with("gs:")) {
    return std::make_unique<WholeStream>(
        stored_value(state_->files->OpenInputStream(info.path()), uri), uri);
  }
  return std::make_unique<PieceStream>(
      stored_value(num_bytes >= 0 ? state_->files->OpenInputFile(info)
                                  : state_->files->OpenInputFile(info.path()),
                   uri),
      uri);
}

std::string ObjectStore::read(const std::string& name, size_t max_bytes) const {
  const std::unique_ptr<ByteStream> stream = open(name);
  std::string bytes;
  std::vector<char> piece(256 << 10);
  while (const size_t count = stream->read(piece.data(), piece.size())) {
    bytes.append(piece.data(), count);
    if (bytes.size() > max_bytes) {
      fail(ErrorCode::damaged, "{}: longer than {} bytes", join_uri(uri_, name), max_bytes);
    }
  }
  return bytes;
}

}  // namespace osp
