#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "hash.h"

namespace monobeam {
namespace {

constexpr size_t kBuffer = size_t{1} << 20;

struct Prologue {
  uint64_t magic;
  uint32_t version;
  uint32_t reserved;
  uint64_t length;  // of the payload
};
static_assert(sizeof(Prologue) == 24, "written as it is in memory");

constexpr size_t kAround = sizeof(Prologue) + sizeof(uint64_t);

}  // namespace

FileError::FileError(const std::string& path, int code)
    : std::runtime_error(path + ": " + std::strerror(code)), path(path), code(code) {}

// --- Checksum ------------------------------------------------------------------------------------------------------

void Checksum::update(const uint8_t* data, size_t size) {
  while (size > 0 && size_ % 8 != 0) {
    partial_[size_++ % 8] = *data++;
    --size;
    if (size_ % 8 == 0) add_word(partial_);
  }
  for (; size >= 8; data += 8, size -= 8, size_ += 8) add_word(data);
  for (; size > 0; --size) partial_[size_++ % 8] = *data++;
}

void Checksum::add_word(const uint8_t* data) {
  uint64_t word;
  std::memcpy(&word, data, 8);
  state_ = mix((state_ ^ word) + kGolden);
}

uint64_t Checksum::value() const {
  Checksum whole = *this;
  const uint8_t zeros[8] = {};
  if (size_ % 8 != 0) whole.update(zeros, 8 - size_ % 8);
  return mix(whole.state_ ^ size_);
}

// --- FileWriter ----------------------------------------------------------------------------------------------------

FileWriter::FileWriter(const std::string& path, uint64_t magic, uint32_t version)
    : path_(path), draft_(path + ".draft"), magic_(magic), version_(version) {
  buffer_.reserve(kBuffer);
  file_ = open(draft_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file_ < 0) fail();
  const Prologue later = {};
  write_out(&later, sizeof(later));
}

FileWriter::~FileWriter() {
  if (file_ < 0) return;
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
    if (buffer_.size() == kBuffer) flush();
  }
}

void FileWriter::text(const std::string& value) {
  put<uint32_t>(static_cast<uint32_t>(value.size()));
  bytes(value.data(), value.size());
}

void FileWriter::commit() {
  flush();
  const Prologue prologue = {magic_, version_, 0, length_};
  checksum_.update(reinterpret_cast<const uint8_t*>(&prologue), sizeof(prologue));
  const uint64_t sum = checksum_.value();
  write_out(&sum, sizeof(sum));
  if (pwrite(file_, &prologue, sizeof(prologue), 0) != sizeof(prologue)) fail();
  if (fsync(file_) != 0) fail();
  if (rename(draft_.c_str(), path_.c_str()) != 0) fail();
  close(file_);
  file_ = -1;
  sync_directory();
}

void FileWriter::flush() {
  checksum_.update(buffer_.data(), buffer_.size());
  write_out(buffer_.data(), buffer_.size());
  length_ += buffer_.size();
  buffer_.clear();
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
    verify(magic, version);
  } catch (...) {
    close(file_);
    throw;
  }
}

FileReader::~FileReader() { close(file_); }

void FileReader::verify(uint64_t magic, uint32_t version) {
  struct stat status;
  if (fstat(file_, &status) != 0) throw FileError(path_, errno);
  const uint64_t size = static_cast<uint64_t>(status.st_size);
  Prologue prologue = {};
  if (read_in(&prologue, sizeof(prologue)) != sizeof(prologue) || prologue.magic != magic) refuse("is no " + kind_);
  if (prologue.version != version) {
    refuse("is a " + kind_ + " of format version " + std::to_string(prologue.version) + "; this build reads version " +
           std::to_string(version));
  }
  if (size < kAround || prologue.length != size - kAround) {
    refuse("is truncated or damaged: " + std::to_string(size) + " bytes, where its head says " +
           std::to_string(prologue.length + kAround));
  }
  Checksum checksum;
  buffer_.resize(kBuffer);
  for (uint64_t left = prologue.length; left > 0;) {
    const size_t part = std::min<uint64_t>(left, kBuffer);
    if (read_in(buffer_.data(), part) != part) refuse("is truncated");
    checksum.update(buffer_.data(), part);
    left -= part;
  }
  checksum.update(reinterpret_cast<const uint8_t*>(&prologue), sizeof(prologue));
  uint64_t sum = 0;
  if (read_in(&sum, sizeof(sum)) != sizeof(sum) || sum != checksum.value()) refuse("is damaged: wrong checksum");
  if (lseek(file_, sizeof(prologue), SEEK_SET) < 0) throw FileError(path_, errno);
  buffer_.clear();
  left_ = prologue.length;
}

void FileReader::bytes(void* data, size_t size) {
  if (size > left_) refuse("ends too early");
  left_ -= size;
  uint8_t* to = static_cast<uint8_t*>(data);
  while (size > 0) {
    if (next_ == buffer_.size()) {
      buffer_.resize(kBuffer);
      buffer_.resize(read_in(buffer_.data(), kBuffer));
      next_ = 0;
      if (buffer_.empty()) refuse("ends too early");
    }
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
