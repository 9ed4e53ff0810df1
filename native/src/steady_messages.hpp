// The messages of ordinary turns as MessagePack, the same bytes that mpaxos.net.codec makes of the
// records of mpaxos.core.messages; the extension needs no more of MessagePack than this.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "steady.hpp"

namespace mpaxos {

// A letter that came, with the ballot it belongs to (none for a forward).
struct Incoming {
  Letter letter;
  std::uint64_t round = 0;
  std::uint64_t leader = 0;
  bool vote = true;                  // of an accept
  std::vector<std::uint64_t> slots;  // of accepted
};

// Appends the control part of `letter` to `out`.
void encode_letter(std::string& out, const Letter& letter, std::uint64_t round,
                   std::uint64_t leader);
// Votes, of which more come than are needed: mpaxos.net.adapter.VOTES.
inline bool is_vote(LetterKind kind) {
  return kind == LetterKind::kAccepted || kind == LetterKind::kAlive;
}
// False: another message, or one that mpaxos.net.codec has to judge. `into` is then unspecified.
bool decode_letter(std::string_view control, std::size_t values, Incoming& into);

}  // namespace mpaxos
