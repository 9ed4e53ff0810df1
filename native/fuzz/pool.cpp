// Opening a damaged pool. Flipped bits: it opens and everything in it reads as it was written, or
// it is a StorageError. Whatever else is in there, with all checksums right: it opens and can be
// read to the end, or it is a StorageError. Never a crash, a hang, or another exception.
//
// Input: a flag byte (bit 0: checksums are put right), then edits of 8 bytes (pool_image.hpp).
#include <cstring>
#include <memory>
#include <optional>
#include <random>

#include "check.hpp"
#include "engine.hpp"
#include "error.hpp"
#include "pool_image.hpp"

using namespace mpaxos;
using fuzz::require;

namespace {

constexpr std::size_t kMostFlips = 3;
constexpr std::size_t kMostEdits = 8;

fuzz::PoolImage& image() {
  static fuzz::PoolImage image;
  return image;
}

const std::vector<std::string>& expected() {
  static const auto readings = [] {
    image().write({}, false);
    return fuzz::everything(*image().scratch().open());
  }();
  return readings;
}

// The replica goes on with what it found: that must work, too.
void go_on(FilePool& pool) {
  Engine engine(pool);
  const auto slot = engine.slot() + 1;
  const auto batch = fuzz::batch_of(
      {{image().session(), 1000, 1000, kEntryCommand, fuzz::put("a new key", "a value")},
       {image().session(), 1001, 1000, kEntryCommand, fuzz::scan(1000)},
       {image().session(), 1002, 1000, kEntryCommand, fuzz::erase("last")}},
      slot);
  pool.write(std::nullopt, {{slot, 1000, 1, slot, batch}}, slot - 2);
  const auto replies = engine.apply_kv(slot, slot, batch);
  require(replies.size() == 3 && replies.at(0).status == kStatusOk, "it goes on");
}

}  // namespace

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t*, std::size_t, std::size_t);

// Whole edits come and go; chance works inside them.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  std::minstd_rand chance(seed);
  const auto edit = [&](std::size_t at) {
    for (std::size_t i = 0; i < sizeof(fuzz::Edit); ++i) {
      data[at + i] = static_cast<std::uint8_t>(chance() >> 8);
    }
  };
  if (size == 0) data[size++] = static_cast<std::uint8_t>(chance() % 2);
  const auto count = (size - 1) / sizeof(fuzz::Edit);
  const auto most = (max_size - 1) / sizeof(fuzz::Edit);
  switch (chance() % 4) {
    case 0:
      if (count == most) break;
      edit(1 + count * sizeof(fuzz::Edit));
      return 1 + (count + 1) * sizeof(fuzz::Edit);
    case 1:
      if (count == 0) break;
      edit(1 + chance() % count * sizeof(fuzz::Edit));
      return 1 + count * sizeof(fuzz::Edit);
    case 2:
      if (count < 2) break;
      return 1 + (count - 1) * sizeof(fuzz::Edit);
    default: break;
  }
  return LLVMFuzzerMutate(data, size, max_size);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto& as_written = expected();
  const bool seal = size > 0 && (data[0] & 1) != 0;
  std::vector<fuzz::Edit> edits;
  for (std::size_t at = 1; at + sizeof(fuzz::Edit) <= size; at += sizeof(fuzz::Edit)) {
    if (edits.size() == (seal ? kMostEdits : kMostFlips)) break;
    std::memcpy(&edits.emplace_back(), data + at, sizeof(fuzz::Edit));
  }
  image().write(edits, seal);
  try {
    const auto pool = image().scratch().open();
    const auto found = fuzz::everything(*pool);
    if (seal) return 0;
    require(found.size() == as_written.size(), "nothing is missing without an error");
    bool sound = true;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const bool damaged = found[i] == fuzz::kDamaged;
      require(damaged || found[i] == as_written[i], "what is read is what was written");
      sound = sound && !damaged;
    }
    if (sound) go_on(*pool);
  } catch (const Error& error) {
    if (!fuzz::is_storage_error(error)) std::fprintf(stderr, "%s\n", error.what());
    require(fuzz::is_storage_error(error), "damage is a StorageError");
  }
  return 0;
}
