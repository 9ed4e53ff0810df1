// The image of a pool with a known history, and damaged copies of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "error.hpp"
#include "pool_layout.hpp"
#include "scratch_pool.hpp"

namespace mpaxos::fuzz {

// How the bytes of an object get a right checksum after they were changed.
enum class Seal {
  kNone,
  kHeader,
  kPromise,
  kWord,
  kApplied,
  kRecord,
  kContainer,
  kBranch,
  kLeaf,
  kSession,
  kCell,
};

// Something in the pool that damage may hit.
struct Object {
  std::uint64_t offset;
  std::uint64_t size;
  Seal seal;
};

struct Edit {
  std::uint16_t object;  // its index, modulo their number
  std::uint16_t offset;  // in the object, modulo its size
  std::uint8_t how;
  std::uint8_t bit;
  std::uint16_t operand;
};
static_assert(sizeof(Edit) == 8);

class PoolImage {
 public:
  PoolImage();
  // Puts the image with `edits` made to it where open() finds it; with `seal` the checksums of
  // what was edited are put right.
  void write(const std::vector<Edit>& edits, bool seal);
  const ScratchPool& scratch() const { return scratch_; }
  // A session with stored replies.
  std::uint64_t session() const { return sessions_[1]; }

 private:
  void make_history();
  void find_objects();
  void find_items(std::uint64_t reference);
  void find_records(std::uint64_t log_offset, std::uint64_t head, std::uint64_t tail);
  void find_sessions(std::uint64_t table);
  void make(const Edit& edit, bool seal);
  void put_right(const Object& object);
  template <typename T>
  T* at(std::uint64_t offset) {
    return reinterpret_cast<T*>(bytes_.data() + offset);
  }

  ScratchPool scratch_;
  std::uint64_t sessions_[3] = {};
  std::string original_;
  std::string bytes_;
  std::vector<std::uint64_t> pages_;  // that are not zero
  std::vector<Object> objects_;
};

// The errors that damage is told with.
bool is_storage_error(const Error& error);

// All that can be read of an open pool, one reading after the other, each as text, or kDamaged when
// it ended in a StorageError: one that fails must not hide what another one would have got.
inline constexpr char kDamaged[] = "damaged";
std::vector<std::string> everything(FilePool& pool);

}  // namespace mpaxos::fuzz
