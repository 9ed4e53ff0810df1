#include "wal_index.hpp"

#include <algorithm>

#include "error.hpp"

namespace mpaxos {

void WalIndex::start(std::uint64_t segment, WalBallot promised, std::uint64_t truncated) {
  oldest_ = segment;
  promised_ = promised;
  truncated_ = truncated;
}

void WalIndex::apply(const WalHeader& header, std::uint64_t segment, std::uint64_t offset,
                     BatchPtr batch) {
  switch (header.kind) {
    case kWalPromise:
      invariant(WalBallot(header.round, header.leader) > promised_,
                "a promise that is not above the present one");
      promised_ = {header.round, header.leader};
      return;
    case kWalRecord: return accept(header, segment, offset, std::move(batch));
    case kWalTruncate: return truncate(header.slot);
    case kWalDecided: decided_ = std::max(decided_, header.slot); return;
    case kWalOpened:
    case kWalClosed: return;
    default: invariant(false, "a record of unknown kind");
  }
}

void WalIndex::accept(const WalHeader& header, std::uint64_t segment, std::uint64_t offset,
                      BatchPtr batch) {
  const WalBallot ballot(header.round, header.leader);
  invariant(ballot >= promised_, "a record of a ballot below the promise");
  invariant(header.slot > truncated_, "a record of a slot that was given up");
  auto& known = known_[header.slot];
  if (known.segment != 0) {
    invariant(known.ballot <= ballot, "a record of a lower ballot than its slot already has");
    drop(known);
  }
  known = {segment, offset, header.sequence, ballot, header.time, header.length, nullptr};
  ++live(segment);
  if (batch) keep(header.slot, known, std::move(batch));
}

void WalIndex::drop(Known& known) {
  --live(known.segment);
  if (known.recent) kept_bytes_ -= known.length;
  known.recent.reset();
}

bool WalIndex::is_kept(const std::pair<std::uint64_t, std::uint64_t>& entry) const {
  const auto* known = find(entry.first);
  return known != nullptr && known->sequence == entry.second && known->recent;
}

void WalIndex::keep(std::uint64_t slot, Known& known, BatchPtr batch) {
  known.recent = std::move(batch);
  kept_bytes_ += known.length;
  kept_.emplace_back(slot, known.sequence);
  while (!kept_.empty() && (kept_bytes_ > cache_size_ || !is_kept(kept_.front()))) {
    if (is_kept(kept_.front())) {
      auto& oldest = known_[kept_.front().first];
      oldest.recent.reset();
      kept_bytes_ -= oldest.length;
    }
    kept_.pop_front();
  }
  // Entries of slots written again or given up may be stuck behind one that is still kept.
  if (kept_.size() > 2 * known_.size() + 1024) {
    std::erase_if(kept_, [this](const auto& entry) { return !is_kept(entry); });
  }
}

void WalIndex::truncate(std::uint64_t upto) {
  if (upto <= truncated_) return;
  truncated_ = upto;
  auto at = known_.begin();
  while (at != known_.end() && at->first <= upto) {
    drop(at->second);
    at = known_.erase(at);
  }
}

const WalIndex::Known* WalIndex::find(std::uint64_t slot) const {
  const auto at = known_.find(slot);
  return at == known_.end() ? nullptr : &at->second;
}

std::uint64_t WalIndex::oldest_needed(std::uint64_t current) {
  while (oldest_ < current && live(oldest_) == 0) ++oldest_;
  return oldest_;
}

}  // namespace mpaxos
