// Batch bytes, as they come from a peer or out of the log: they parse, or it is a WireError. What
// parses is what it says, and building it again gives the same bytes.
//
// Input: one flag byte (bit 0: magic, version and count are put right first), then a batch.
#include "batch.hpp"

#include <cstdint>

#include "check.hpp"
#include "checksum.hpp"
#include "error.hpp"

using namespace mpaxos;
using fuzz::require;

namespace {

// The header as a sender would write it for whatever follows, if that makes sense at all.
void put_right(std::string& bytes) {
  if (bytes.size() < sizeof(BatchHeader)) return;
  BatchHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  header.magic = kBatchMagic;
  header.version = 1;
  try {
    header.count = validate_entries(std::string_view(bytes).substr(sizeof header));
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::kWire, "bad entries are a WireError");
  }
  std::memcpy(bytes.data(), &header, sizeof header);
}

void check(const Batch& batch, const std::string& bytes) {
  require(batch.bytes() == bytes, "a batch keeps its bytes");
  require(batch.digest() == digest64(bytes), "the digest is that of the bytes");
  BatchBuilder builder;
  std::uint32_t count = 0;
  Entry entry;
  for (EntryCursor cursor(batch); cursor.next(entry); ++count) {
    const auto* begin = batch.bytes().data();
    require(entry.payload.data() >= begin + sizeof(BatchHeader) + sizeof(EntryHeader) &&
                entry.payload.data() + entry.payload.size() <= begin + bytes.size(),
            "a payload lies inside its batch");
    builder.append(entry.header, entry.payload);
  }
  require(count == batch.header().count, "a batch has as many entries as it says");
  const auto& header = batch.header();
  const auto again = builder.seal(header.origin, header.incarnation, header.number);
  auto expected = bytes;
  std::memset(expected.data() + offsetof(BatchHeader, reserved), 0, sizeof header.reserved);
  require(again->bytes() == expected, "a batch built from its entries is the same");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] & 1) put_right(bytes);
  BatchPtr batch;
  try {
    batch = Batch::parse(bytes);
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::kWire, "a bad batch is a WireError");
    return 0;
  }
  check(*batch, bytes);
  return 0;
}
