// Checked binary files: a prologue (magic, version, length of the payload) and its checksum; then the payload in blocks
// of 1 MiB, each followed by a checksum that also depends on its place.
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

// Of some bytes, with another result for another seed: whatever changes in one place changes it.
uint64_t checksum(const uint8_t* data, size_t size, uint64_t seed);

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

  uint64_t length() const { return length_ + buffer_.size(); }

 private:
  void open_draft();
  void write_out(const void* data, size_t size);
  void flush();
  void start_writing();
  void abandon();
  void sync_directory() const;
  [[noreturn]] void fail() const;

  const std::string path_;
  std::string draft_;
  const uint64_t magic_;
  const uint32_t version_;
  uint64_t length_ = 0;
  int file_ = -1;
  uint64_t blocks_ = 0;
  std::vector<uint8_t> buffer_;
};

// Gives out nothing that it has not verified; what comes later may still turn out to be damaged. std::invalid_argument
// for what is wrong with the content.
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

  uint64_t length() const { return length_; }
  uint64_t left() const { return left_; }
  [[noreturn]] void refuse(const std::string& why) const;

 private:
  size_t read_in(void* data, size_t size);
  void open_payload(uint64_t magic, uint32_t version);
  void next_block();

  const std::string path_;
  const std::string kind_;
  int file_ = -1;
  uint64_t length_ = 0;  // of the payload
  uint64_t left_ = 0;    // of it
  uint64_t blocks_ = 0;
  std::vector<uint8_t> buffer_;
  size_t next_ = 0;  // in buffer_
};

}  // namespace monobeam
