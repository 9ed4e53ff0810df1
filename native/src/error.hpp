// Errors that reach Python as the types of mpaxos.errors.
#pragma once

#include <stdexcept>
#include <string>

namespace mpaxos {

enum class ErrorKind {
  kWire,            // WireError
  kConfig,          // ConfigError
  kStorageMissing,  // StorageMissing
  kStorageForeign,
  kStorageLocked,
  kStorageVersion,
  kStorageCorrupt,
  kStorageFull,
  kStorageIncomplete,
  kImage,      // ImageError
  kStorage,    // StorageError: the device failed
  kInvariant,  // InvariantViolated
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& text) : std::runtime_error(text), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// Stays on in production: a state that cannot be right stops the replica.
inline void invariant(bool condition, const char* text) {
  if (!condition) throw Error(ErrorKind::kInvariant, text);
}

}  // namespace mpaxos
