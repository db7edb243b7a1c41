#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "hash.h"
#include "widths.h"

namespace monobeam {
namespace {

constexpr size_t kBuffer = size_t{1} << 20;
constexpr int kMostAttempts = 10000;  // to find a name that no other draft has

struct Prologue {
  uint64_t magic;
  uint32_t version;
  uint32_t reserved;
  uint64_t length;  // of the payload
};
static_assert(sizeof(Prologue) == 24, "written as it is in memory");

uint64_t checksum_of(const Prologue& prologue) {
  return checksum(reinterpret_cast<const uint8_t*>(&prologue), sizeof(prologue), 0);
}

// Of a file with so much payload.
uint64_t file_bytes(uint64_t length) {
  const uint64_t blocks = length / kBuffer + (length % kBuffer > 0);
  return sizeof(Prologue) + sizeof(uint64_t) * (1 + blocks) + length;
}

constexpr uint64_t kBlocksBehind = 8;  // that are given to the disk together

// Eight independent chains, one for each word of 64 bytes, so that a machine with wide vectors takes them at once.
constexpr size_t kChains = 8, kStripe = kChains * sizeof(uint64_t);

MONOBEAM_INLINE void add_stripe(uint64_t* chains, const uint8_t* stripe) {
  for (size_t i = 0; i < kChains; ++i) {
    uint64_t word;
    std::memcpy(&word, stripe + i * sizeof(word), sizeof(word));
    const uint64_t product = (chains[i] ^ word) * kGolden;
    chains[i] = product ^ product >> 32;
  }
}

// With the sums in a local array, which can be in registers.
MONOBEAM_WIDTHS void add_stripes(uint64_t* sums, const uint8_t* data, size_t stripes) {
  uint64_t chains[kChains];
  std::memcpy(chains, sums, sizeof(chains));
  for (size_t stripe = 0; stripe < stripes; ++stripe) add_stripe(chains, data + stripe * kStripe);
  std::memcpy(sums, chains, sizeof(chains));
}

}  // namespace

FileError::FileError(const std::string& path, int code)
    : std::runtime_error(path + ": " + std::strerror(code)), path(path), code(code) {}

uint64_t checksum(const uint8_t* data, size_t size, uint64_t seed) {
  uint64_t chains[kChains];
  uint8_t last[kStripe] = {};
  for (size_t i = 0; i < kChains; ++i) chains[i] = mix(seed + (i + 1) * kGolden);
  add_stripes(chains, data, size / kStripe);
  std::memcpy(last, data + size / kStripe * kStripe, size % kStripe);
  add_stripe(chains, last);
  uint64_t sum = mix(seed ^ size);
  for (const uint64_t chain : chains) sum = mix(sum ^ chain);
  return sum;
}

// --- FileWriter ----------------------------------------------------------------------------------------------------

FileWriter::FileWriter(const std::string& path, uint64_t magic, uint32_t version)
    : path_(path), magic_(magic), version_(version) {
  buffer_.reserve(kBuffer);
  open_draft();
  const uint8_t later[sizeof(Prologue) + sizeof(uint64_t)] = {};
  try {
    write_out(later, sizeof(later));
  } catch (...) {
    abandon();
    throw;
  }
}

// Of its own: another one may be writing the same file.
void FileWriter::open_draft() {
  static std::atomic<uint64_t> drafts{0};
  for (int attempt = 0; file_ < 0; ++attempt) {
    draft_ = path_ + ".draft-" + std::to_string(getpid()) + "-" + std::to_string(drafts++);
    file_ = open(draft_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file_ < 0 && (errno != EEXIST || attempt == kMostAttempts)) fail();  // of killed processes with this number
  }
}

FileWriter::~FileWriter() {
  if (file_ >= 0) abandon();
}

void FileWriter::abandon() {
  close(file_);
  unlink(draft_.c_str());
}

void FileWriter::bytes(const void* data, size_t size) {
  const uint8_t* from = static_cast<const uint8_t*>(data);
  while (size > 0) {
    const size_t part = std::min(size, kBuffer - buffer_.size());
    buffer_.insert(buffer_.end(), from, from + part);
    from += part;
    size -= part;
    if (buffer_.size() < kBuffer) continue;
    flush();
    if (blocks_ % kBlocksBehind == 0) start_writing();
  }
}

void FileWriter::text(const std::string& value) {
  put<uint32_t>(static_cast<uint32_t>(value.size()));
  bytes(value.data(), value.size());
}

void FileWriter::commit() {
  if (!buffer_.empty()) flush();
  const Prologue prologue = {magic_, version_, 0, length_};
  const uint64_t sum = checksum_of(prologue);
  if (lseek(file_, 0, SEEK_SET) != 0) fail();
  write_out(&prologue, sizeof(prologue));
  write_out(&sum, sizeof(sum));
  if (fsync(file_) != 0) fail();
  if (rename(draft_.c_str(), path_.c_str()) != 0) fail();
  close(file_);
  file_ = -1;
  sync_directory();
}

void FileWriter::flush() {
  const uint64_t sum = checksum(buffer_.data(), buffer_.size(), ++blocks_);
  write_out(buffer_.data(), buffer_.size());
  write_out(&sum, sizeof(sum));
  length_ += buffer_.size();
  buffer_.clear();
}

// The disk begins with what is complete, not only when fsync() asks for everything.
void FileWriter::start_writing() {
#ifdef __linux__
  constexpr uint64_t kBytes = kBlocksBehind * (kBuffer + sizeof(uint64_t));
  const uint64_t end = file_bytes(length_);
  sync_file_range(file_, static_cast<off_t>(end - kBytes), kBytes, SYNC_FILE_RANGE_WRITE);
#endif
}

void FileWriter::write_out(const void* data, size_t size) {
  const char* from = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = write(file_, from, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail();
    from += written;
    size -= static_cast<size_t>(written);
  }
}

// Without it the new name may be lost in a power failure, though the bytes are there.
void FileWriter::sync_directory() const {
  const size_t slash = path_.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  const int handle = open(directory.c_str(), O_RDONLY | O_CLOEXEC);
  if (handle < 0) return;
  fsync(handle);
  close(handle);
}

void FileWriter::fail() const { throw FileError(path_, errno); }

// --- FileReader ----------------------------------------------------------------------------------------------------

FileReader::FileReader(const std::string& path, uint64_t magic, uint32_t version, const char* kind)
    : path_(path), kind_(kind), file_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (file_ < 0) throw FileError(path_, errno);
  try {
    open_payload(magic, version);
  } catch (...) {
    close(file_);
    throw;
  }
}

FileReader::~FileReader() { close(file_); }

void FileReader::open_payload(uint64_t magic, uint32_t version) {
  struct stat status;
  if (fstat(file_, &status) != 0) throw FileError(path_, errno);
  Prologue prologue = {};
  if (read_in(&prologue, sizeof(prologue)) != sizeof(prologue) || prologue.magic != magic) refuse("is no " + kind_);
  if (prologue.version != version) {
    refuse("is a " + kind_ + " of format version " + std::to_string(prologue.version) + "; this build reads version " +
           std::to_string(version));
  }
  uint64_t sum = 0;
  if (read_in(&sum, sizeof(sum)) != sizeof(sum)) refuse("is truncated");
  if (sum != checksum_of(prologue)) refuse("is damaged: wrong checksum of its head");
  const uint64_t size = static_cast<uint64_t>(status.st_size);
  const bool more = prologue.length > size;  // so much that file_bytes() may not be believed
  if (more || size != file_bytes(prologue.length)) {
    refuse("is truncated or damaged: " + std::to_string(size) + " bytes, where its head says " +
           std::to_string(more ? prologue.length : file_bytes(prologue.length)));
  }
  length_ = left_ = prologue.length;
}

void FileReader::next_block() {
  const uint64_t before = blocks_++ * kBuffer;
  if (before >= length_) refuse("ends too early");
  const size_t size = std::min<uint64_t>(kBuffer, length_ - before);
  buffer_.resize(size);
  uint64_t sum = 0;
  if (read_in(buffer_.data(), size) != size || read_in(&sum, sizeof(sum)) != sizeof(sum)) refuse("is truncated");
  if (sum != checksum(buffer_.data(), size, blocks_)) {
    refuse("is damaged: wrong checksum of its block " + std::to_string(blocks_));
  }
  next_ = 0;
}

void FileReader::bytes(void* data, size_t size) {
  if (size > left_) refuse("ends too early");
  left_ -= size;
  uint8_t* to = static_cast<uint8_t*>(data);
  while (size > 0) {
    if (next_ == buffer_.size()) next_block();
    const size_t part = std::min(size, buffer_.size() - next_);
    std::memcpy(to, buffer_.data() + next_, part);
    to += part;
    next_ += part;
    size -= part;
  }
}

std::string FileReader::text() {
  const uint32_t size = get<uint32_t>();
  if (size > left_) refuse("ends too early");
  std::string value(size, '\0');
  bytes(value.data(), size);
  return value;
}

void FileReader::refuse(const std::string& why) const { throw std::invalid_argument(path_ + " " + why); }

// Less than asked for only at the end of the file.
size_t FileReader::read_in(void* data, size_t size) {
  char* to = static_cast<char*>(data);
  size_t total = 0;
  while (total < size) {
    const ssize_t got = read(file_, to + total, size - total);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw FileError(path_, errno);
    if (got == 0) break;
    total += static_cast<size_t>(got);
  }
  return total;
}

}  // namespace monobeam
