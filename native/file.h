// Checked binary files: a prologue (magic, version, length), the payload, a checksum of both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace monobeam {

// The operating system refused; `code` is its errno.
class FileError : public std::runtime_error {
 public:
  FileError(const std::string& path, int code);

  const std::string path;
  const int code;
};

// Chains the hash of hash.h over the words of a stream, however the stream is cut.
class Checksum {
 public:
  void update(const uint8_t* data, size_t size);
  uint64_t value() const;

 private:
  void add_word(const uint8_t* data);

  uint64_t state_ = 0;
  uint64_t size_ = 0;
  uint8_t partial_[8] = {};
};

// Writes beside the target and replaces it in commit(), so that a crash leaves the old file or the new one.
class FileWriter {
 public:
  FileWriter(const std::string& path, uint64_t magic, uint32_t version);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void bytes(const void* data, size_t size);
  void text(const std::string& value);
  template <typename T>
  void put(T value) {
    bytes(&value, sizeof(T));
  }

  void commit();

 private:
  void write_out(const void* data, size_t size);
  void flush();
  void sync_directory() const;
  [[noreturn]] void fail() const;

  const std::string path_;
  const std::string draft_;
  const uint64_t magic_;
  const uint32_t version_;
  uint64_t length_ = 0;
  int file_ = -1;
  std::vector<uint8_t> buffer_;
  Checksum checksum_;
};

// Verifies all of the file before it gives out any of it. std::invalid_argument for what is wrong with the content.
class FileReader {
 public:
  FileReader(const std::string& path, uint64_t magic, uint32_t version, const char* kind);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  void bytes(void* data, size_t size);
  std::string text();
  template <typename T>
  T get() {
    T value;
    bytes(&value, sizeof(T));
    return value;
  }

  uint64_t left() const { return left_; }
  [[noreturn]] void refuse(const std::string& why) const;

 private:
  size_t read_in(void* data, size_t size);
  void verify(uint64_t magic, uint32_t version);

  const std::string path_;
  const std::string kind_;
  int file_ = -1;
  uint64_t left_ = 0;  // of the payload
  std::vector<uint8_t> buffer_;
  size_t next_ = 0;  // in buffer_
};

}  // namespace monobeam
