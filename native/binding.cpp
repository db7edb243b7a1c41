// The Python face of the table and the hashes; the GIL is released around the work. Only this file and arrays.h know
// Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <cerrno>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "arrays.h"
#include "file.h"
#include "hash.h"
#include "table.h"

namespace nb = nanobind;
using namespace nb::literals;
using monobeam::Array;
using monobeam::Matrix;
using monobeam::Result;
using monobeam::Span;
using monobeam::Table;
using monobeam::Vector;
using monobeam::keys_of;
using monobeam::matrix;
using monobeam::vector;
using monobeam::writable_matrix;

namespace {

Vector<uint64_t> to_array(const std::vector<uint64_t>& values) {
  Result<uint64_t> result(values.size());
  std::copy(values.begin(), values.end(), result.data());
  return result.vector(values.size());
}

uint32_t natural(int64_t value, const char* name, const char* kind = "") {
  if (value < 0 || value > std::numeric_limits<uint32_t>::max()) {
    throw std::invalid_argument(std::string(name) + "=" + std::to_string(value) + " must be " + kind +
                                "in [0, 2^32 - 1]");
  }
  return static_cast<uint32_t>(value);
}
uint32_t seconds(int64_t value, const char* name) { return natural(value, name, "seconds "); }

size_t bags_of(const Span<const int64_t>& offsets) { return offsets.size == 0 ? 0 : offsets.size - 1; }

// --- Table ---------------------------------------------------------------------------------------------------------

void init_table(Table* self, int64_t dim, const std::string& optimizer, const monobeam::Hyper& hyper, uint64_t seed,
                double init_scale, uint64_t pending_limit, const std::string& row_format, uint64_t memory_limit,
                std::shared_ptr<monobeam::Room> room) {
  if (dim < 0 || dim > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument("dim " + std::to_string(dim) + " must be at least 0");
  }
  new (self) Table({static_cast<uint32_t>(dim), optimizer, hyper, seed, static_cast<float>(init_scale),
                    pending_limit, monobeam::parse_row_format(row_format), memory_limit, std::move(room)});
}

void set_policy(Table& table, int64_t slot, int64_t admit_count, double admit_probability, int64_t expire_seconds,
                int64_t pending_seconds) {
  const monobeam::SlotPolicy policy = {natural(admit_count, "admit_count"), admit_probability,
                                       seconds(expire_seconds, "expire_seconds"),
                                       seconds(pending_seconds, "pending_seconds")};
  const uint32_t number = natural(slot, "slot");
  nb::gil_scoped_release release;
  table.set_policy(number, policy);
}

// Where results go: into the array that the caller gave, or into a new one.
template <typename T>
class Destination {
 public:
  Destination(const std::optional<Array>& out, size_t rows, size_t columns)
      : given_(out), made_(out ? 0 : rows * columns), rows_(rows), columns_(columns) {
    data_ = out ? writable_matrix<T>(*out, "out", rows, columns) : made_.data();
  }

  T* data() const { return data_; }
  nb::object array() { return given_ ? nb::cast(*given_) : nb::cast(made_.matrix(rows_, columns_)); }

 private:
  std::optional<Array> given_;
  Result<T> made_;
  size_t rows_, columns_;
  T* data_;
};

Vector<uint32_t> find_or_insert(Table& table, const Array& keys, int64_t now) {
  const auto in = keys_of(keys);
  const uint32_t at = seconds(now, "now");
  Result<uint32_t> handles(in.size);
  {
    nb::gil_scoped_release release;
    table.find_or_insert(in, at, handles.data());
  }
  return handles.vector(in.size);
}

Vector<uint32_t> find(const Table& table, const Array& keys) {
  const auto in = keys_of(keys);
  Result<uint32_t> handles(in.size);
  {
    nb::gil_scoped_release release;
    table.find(in, handles.data());
  }
  return handles.vector(in.size);
}

nb::object gather(const Table& table, const Array& handles, const std::optional<Array>& out) {
  const auto in = vector<uint32_t>(handles, "handles");
  Destination<float> rows(out, in.size, table.dim());
  {
    nb::gil_scoped_release release;
    table.gather(in, rows.data());
  }
  return rows.array();
}

nb::object gather_pooled(const Table& table, const Array& handles, const Array& offsets,
                         const std::optional<Array>& out) {
  const auto in = vector<uint32_t>(handles, "handles");
  const auto bags = vector<int64_t>(offsets, "offsets");
  Destination<float> rows(out, bags_of(bags), table.dim());
  {
    nb::gil_scoped_release release;
    table.gather_pooled(in, bags, rows.data());
  }
  return rows.array();
}

nb::tuple lookup(const Table& table, const Array& keys, const std::optional<Array>& out) {
  const auto in = keys_of(keys);
  Destination<float> rows(out, in.size, table.dim());
  Result<bool> found(in.size);
  {
    nb::gil_scoped_release release;
    table.lookup(in, rows.data(), found.data());
  }
  return nb::make_tuple(rows.array(), found.vector(in.size));
}

nb::object lookup_pooled(const Table& table, const Array& keys, const Array& offsets,
                         const std::optional<Array>& out) {
  const auto in = keys_of(keys);
  const auto bags = vector<int64_t>(offsets, "offsets");
  Destination<float> rows(out, bags_of(bags), table.dim());
  {
    nb::gil_scoped_release release;
    table.lookup_pooled(in, bags, rows.data());
  }
  return rows.array();
}

void apply_pooled(Table& table, const Array& handles, const Array& offsets, const Array& gradients,
                  double learning_rate) {
  const auto in = vector<uint32_t>(handles, "handles");
  const auto bags = vector<int64_t>(offsets, "offsets");
  const float* values = matrix<float>(gradients, "gradients", bags_of(bags), table.dim());
  nb::gil_scoped_release release;
  table.apply_pooled(in, bags, values, static_cast<float>(learning_rate));
}

void apply(Table& table, const Array& handles, const Array& gradients, double learning_rate) {
  const auto in = vector<uint32_t>(handles, "handles");
  const float* values = matrix<float>(gradients, "gradients", in.size, table.dim());
  nb::gil_scoped_release release;
  table.apply_pooled(in, {nullptr, 0}, values, static_cast<float>(learning_rate));
}

// Progress as Python is told it; what the callback raises goes through the table to the caller.
using Callback = std::optional<std::function<void(uint64_t, uint64_t)>>;

monobeam::Progress telling(const Callback& progress) {
  if (!progress) return nullptr;
  return [&progress](uint64_t done, uint64_t all) {
    nb::gil_scoped_acquire acquire;
    (*progress)(done, all);
  };
}

// What open() takes, and refuses: the system would cut a path off at a NUL.
std::string path_of(const nb::object& path) {
  PyObject* bytes = nullptr;
  if (!PyUnicode_FSConverter(path.ptr(), &bytes)) throw nb::python_error();
  const nb::bytes owned = nb::steal<nb::bytes>(bytes);
  return {owned.c_str(), owned.size()};
}

void save(const Table& table, const nb::object& path, const Callback& progress) {
  const std::string where = path_of(path);
  nb::gil_scoped_release release;
  table.save(where, telling(progress));
}

Table* load(const nb::object& path, const Callback& progress) {
  const std::string where = path_of(path);
  nb::gil_scoped_release release;
  return Table::load(where, telling(progress)).release();
}

// A method that takes nothing and returns keys.
template <std::vector<uint64_t> (Table::*method)() const>
Vector<uint64_t> key_list(const Table& table) {
  std::vector<uint64_t> keys;
  {
    nb::gil_scoped_release release;
    keys = (table.*method)();
  }
  return to_array(keys);
}

Vector<uint64_t> expire(Table& table, int64_t now, int64_t budget) {
  const uint32_t at = seconds(now, "now");
  if (budget < 0) throw std::invalid_argument("budget " + std::to_string(budget) + " must be >= 0");
  std::vector<uint64_t> keys;
  {
    nb::gil_scoped_release release;
    keys = table.expire(at, static_cast<uint64_t>(budget));
  }
  return to_array(keys);
}

size_t expire_keys(Table& table, const Array& keys, int64_t now) {
  const auto in = keys_of(keys);
  const uint32_t at = seconds(now, "now");
  nb::gil_scoped_release release;
  return table.expire_keys(in, at);
}

size_t erase(Table& table, const Array& keys) {
  const auto in = keys_of(keys);
  nb::gil_scoped_release release;
  return table.erase(in);
}

Matrix<uint8_t> export_rows(const Table& table, const Array& keys) {
  const auto in = keys_of(keys);
  Result<uint8_t> rows(in.size * table.row_bytes());
  {
    nb::gil_scoped_release release;
    table.export_rows(in, rows.data());
  }
  return rows.matrix(in.size, table.row_bytes());
}

void import_rows(Table& table, const Array& keys, const Array& rows) {
  const auto in = keys_of(keys);
  const uint8_t* bytes = matrix<uint8_t>(rows, "rows", in.size, table.row_bytes());
  nb::gil_scoped_release release;
  table.import_rows(in, bytes);
}

void import_values(Table& table, const Array& keys, const Array& values) {
  const auto in = keys_of(keys);
  const float* floats = matrix<float>(values, "values", in.size, table.dim());
  nb::gil_scoped_release release;
  table.import_values(in, floats);
}

nb::dict stats(const Table& table) {
  monobeam::TableStats stats = {};
  {
    nb::gil_scoped_release release;
    stats = table.stats();
  }
  nb::dict result;
  result["buckets"] = stats.buckets;
  result["pending"] = stats.pending;
  result["overflowing"] = stats.overflowing;
  result["forgotten"] = stats.forgotten;
  result["most_saved"] = stats.most_saved;
  result["splits"] = stats.work.splits;
  result["moves"] = stats.work.moves;
  result["most_splits"] = stats.work.most_splits;
  result["most_moves"] = stats.work.most_moves;
  result["most_searched"] = stats.work.most_searched;
  return result;
}

// --- hashes --------------------------------------------------------------------------------------------------------

template <typename Offset>
Vector<uint64_t> hash_strings_of(Span<const Offset> offsets, Span<const uint8_t> data, uint64_t seed) {
  if (offsets.size == 0) throw std::invalid_argument("offsets must have at least one element");
  const size_t size = offsets.size - 1;
  Result<uint64_t> hashes(size);
  {
    nb::gil_scoped_release release;
    for (size_t i = 0; i <= size; ++i) {
      if (offsets[i] < (i == 0 ? 0 : offsets[i - 1]) || static_cast<uint64_t>(offsets[i]) > data.size) {
        throw std::invalid_argument("offsets[" + std::to_string(i) + "] = " + std::to_string(offsets[i]) +
                                    " must not fall and stay within the " + std::to_string(data.size) +
                                    " bytes of data");
      }
    }
    for (size_t i = 0; i < size; ++i) {
      hashes.data()[i] = monobeam::hash_bytes(data.data + offsets[i], offsets[i + 1] - offsets[i], seed);
    }
  }
  return hashes.vector(size);
}

Vector<uint64_t> hash_strings(const Array& offsets, const Array& data, uint64_t seed) {
  const auto bytes = vector<uint8_t>(data, "data");
  if (offsets.dtype() == nb::dtype<int32_t>()) {
    return hash_strings_of(vector<int32_t>(offsets, "offsets"), bytes, seed);
  }
  return hash_strings_of(vector<int64_t>(offsets, "offsets"), bytes, seed);
}

Vector<uint64_t> hash_ints(const Array& values, uint64_t seed) {
  const auto in = vector<int64_t>(values, "values");
  Result<uint64_t> hashes(in.size);
  {
    nb::gil_scoped_release release;
    for (size_t i = 0; i < in.size; ++i) {
      hashes.data()[i] = monobeam::hash_int(static_cast<uint64_t>(in[i]), seed);
    }
  }
  return hashes.vector(in.size);
}

void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const monobeam::TableFull& error) {
    PyErr_SetString(PyExc_MemoryError, error.what());
  } catch (const monobeam::FileError& error) {
    errno = error.code;
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, error.path.c_str());
  }
}

}  // namespace

NB_MODULE(_core, m) {
  // Whoever ends with a table in a global would be told of a leak on every exit; the system takes the memory back.
  nb::set_leak_warnings(false);
  m.doc() = "The native core: a collisionless embedding table, and the hashes.";
  m.attr("NONE") = monobeam::kNone;
  nb::register_exception_translator(translate);

  m.def("hash_strings", hash_strings, "offsets"_a, "data"_a, "seed"_a);
  m.def("hash_ints", hash_ints, "values"_a, "seed"_a);

  nb::class_<monobeam::Room>(m, "Room")
      .def(nb::init<uint64_t>(), "limit"_a)
      .def_prop_ro("limit", &monobeam::Room::limit)
      .def_prop_ro("used", &monobeam::Room::used);

  nb::class_<Table>(m, "Table")
      .def("__init__", init_table, "dim"_a, "optimizer"_a, "hyper"_a, "seed"_a, "init_scale"_a,
           "pending_limit"_a = uint64_t{1} << 20, "row_format"_a = "fp32", "memory_limit"_a = uint64_t{0},
           "room"_a.none() = nb::none())
      .def_static("load", load, "path"_a, "progress"_a = nb::none(), nb::rv_policy::take_ownership)
      .def("save", save, "path"_a, "progress"_a = nb::none())
      .def("set_policy", set_policy, "slot"_a, "admit_count"_a = 0, "admit_probability"_a = 1.0,
           "expire_seconds"_a = 0, "pending_seconds"_a = 0)
      .def("reserve", &Table::reserve, "rows"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("find_or_insert", find_or_insert, "keys"_a, "now"_a)
      .def("find", find, "keys"_a)
      .def("gather", gather, "handles"_a, "out"_a = nb::none())
      .def("gather_pooled", gather_pooled, "handles"_a, "offsets"_a, "out"_a = nb::none())
      .def("lookup", lookup, "keys"_a, "out"_a = nb::none())
      .def("lookup_pooled", lookup_pooled, "keys"_a, "offsets"_a, "out"_a = nb::none())
      .def("apply", apply, "handles"_a, "gradients"_a, "learning_rate"_a)
      .def("apply_pooled", apply_pooled, "handles"_a, "offsets"_a, "gradients"_a, "learning_rate"_a)
      .def("touched", key_list<&Table::touched>)
      .def("expired", key_list<&Table::expired>)
      .def("clear_touched", &Table::clear_touched, nb::call_guard<nb::gil_scoped_release>())
      .def("export_rows", export_rows, "keys"_a)
      .def("import_rows", import_rows, "keys"_a, "rows"_a)
      .def("import_values", import_values, "keys"_a, "values"_a)
      .def("erase", erase, "keys"_a)
      .def("expire", expire, "now"_a, "budget"_a)
      .def("expire_keys", expire_keys, "keys"_a, "now"_a)
      .def("clear", &Table::clear, nb::call_guard<nb::gil_scoped_release>())
      .def("keys", key_list<&Table::keys>)
      .def("check", &Table::check, nb::call_guard<nb::gil_scoped_release>())
      .def("stats", stats)
      .def("__len__", &Table::size, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("memory_bytes", &Table::memory_bytes, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("update_count_sum", &Table::update_count_sum, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("dim", &Table::dim)
      .def_prop_ro("state_floats", &Table::state_floats)
      .def_prop_ro("row_bytes", &Table::row_bytes)
      .def_prop_ro("optimizer", [](const Table& table) { return table.options().optimizer; })
      .def_prop_ro("row_format", [](const Table& table) { return monobeam::name_of(table.options().format); })
      .def_prop_ro("seed", [](const Table& table) { return table.options().seed; });
}
