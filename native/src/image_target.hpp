// Installs an image of the whole state (image_source.hpp, docs/image.md) into a new pool.
//
// One chunk is one transaction, which also counts the chunk: after a crash of the target the
// transfer goes on where it was, as long as the source still has the chunks that are missing.
// The final chunk's transaction verifies the state, sets the applied position, the truncation
// point of the log and the promise, and makes the pool an ordinary one. Until then no one can
// open it as a replica.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "file_pool.hpp"
#include "image_chunk.hpp"
#include "sessions.hpp"
#include "tree.hpp"
#include "tree_append.hpp"

namespace mpaxos {

// In a pool that is being installed: how far it is. EngineRoot::installing leads here.
struct Installation {
  std::uint64_t image;
  std::uint64_t next;      // number of the chunk that is expected
  std::uint64_t records;   // installed so far
  std::uint64_t bytes;     // of all chunks so far
  std::uint64_t slot;      // of the last chunk
  std::uint64_t staged;    // bytes of the value that is being staged
  ContainerRoot parts;     // of that value: offset as 8 bytes, highest first -> bytes
  std::uint64_t items_sum;  // over the items that are there: EndRecord::items_sum
  std::uint64_t used;       // bytes of them, as counted against the limit of the state
  std::uint32_t reserved;
  std::uint32_t crc;  // CRC-32C of all before; 0 with all else 0: nothing has arrived
};
static_assert(sizeof(Installation) == 200);

class ImageTarget {
 public:
  // Throws kImage unless the pool was created to be installed. Throws kStorageCorrupt.
  // `larger`: the pool may have a higher limit of the state than the image's replica.
  explicit ImageTarget(FilePool& pool, bool larger = false);

  // Installs the chunk that is expected, durably; true when it was the final one: the pool is
  // complete then. `promise` is set with the final one. Nothing is changed when it throws: kWire
  // (bytes that are no chunk), kImage (another chunk, image or limits; not the state that the
  // source had), kStorageFull.
  bool install(const ImageChunk& chunk, const std::optional<Promise>& promise);

  // Progress; all 0 once complete.
  Installation progress() const;
  bool complete() const { return complete_; }

 private:
  void expect(const ChunkReader& reader) const;
  void apply(Transaction& tx, const Record& record);
  bool install_all(const ImageChunk& chunk, ChunkReader& reader,
                   const std::optional<Promise>& promise);
  void install_records(Transaction& tx, ChunkReader& reader, Record& record);
  void put(Transaction& tx, std::uint8_t container, std::string_view key, std::string_view item);
  void erase(Transaction& tx, std::uint8_t container, std::string_view key);
  TreeAppender& appender_of(const ContainerRoot& root);
  void prepare_memory();
  void discount(const ContainerRoot& root, const Leaf& leaf);
  void name(Transaction& tx, std::uint8_t number, std::string_view name);
  void stage(Transaction& tx, std::uint64_t offset, std::string_view part);
  std::string take_staged(Transaction& tx, std::uint64_t length);
  void put_session(Transaction& tx, const SessionRecord& record);
  void remove_session(Transaction& tx, std::uint32_t place);
  void put_reply(Transaction& tx, const ReplyRecord& record, std::string_view payload);
  void verify(const EndRecord& end, const std::vector<ContainerCount>& counts);
  void finish(Transaction& tx, const EndRecord& end, const std::optional<Promise>& promise);
  std::uint64_t& place_in_table(std::uint32_t place);
  SessionObject* session_at(std::uint64_t offset);
  ContainerRoot* container_called(std::string_view name);
  char* base() const { return reinterpret_cast<char*>(pool_.handle()); }

  FilePool& pool_;
  EngineRoot* root_;
  Installation* state_ = nullptr;
  std::array<ContainerRoot*, kMaxContainers> numbers_{};  // in the present chunk
  // Of the containers that got items so far.
  std::array<std::optional<TreeAppender>, kMaxContainers> appenders_;
  std::uint64_t prepared_ = 0;  // the pool's memory is mapped up to this offset
  bool larger_;
  bool complete_ = false;
};

}  // namespace mpaxos
