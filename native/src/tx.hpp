// A libpmemobj transaction as an object. The macros of libpmemobj use setjmp and skip destructors;
// this uses the calls beneath them. See libpmemobj's manual page pmemobj_tx_begin(3).
#pragma once

#include <libpmemobj.h>

#include <string>
#include <vector>

#include "error.hpp"
#include "journal.hpp"

namespace mpaxos {

// Unless commit() returned, the destructor aborts: all changes of added ranges are undone. Never
// nested, never held across a return to Python. What the slot's journal holds needs no transaction
// of libpmemobj: that begins with the first range or allocation that is not held.
class Transaction {
 public:
  explicit Transaction(PMEMobjpool* pool, Journal* journal = nullptr)
      : pool_(pool), journal_(journal) {}
  ~Transaction() {
    if (!begun_) return;
    if (pmemobj_tx_stage() == TX_STAGE_WORK) pmemobj_tx_abort(ECANCELED);
    if (pmemobj_tx_stage() != TX_STAGE_NONE) pmemobj_tx_end();
    cancel(reserved_);
    cancel(dropped_);
  }
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  // The old contents of [data, data + size) are restored if this transaction does not commit.
  void add(void* data, std::size_t size) {
    if (journal_ == nullptr || !journal_->holds(data)) snapshot(data, size);
  }
  // To be called when what was added is changed.
  void written(const void* data, std::size_t size) const {
    if (journal_ != nullptr && journal_->holds(data)) journal_->written(data, size);
  }
  // add() for what the journal must not answer for alone.
  void snapshot(void* data, std::size_t size) {
    begin();
    if (pmemobj_tx_xadd_range_direct(data, size, POBJ_XADD_NO_ABORT) != 0) fail("add a range to");
  }
  bool begun() const { return begun_; }
  // Uninitialised memory; its flush at commit is included. `kind`: a class of allocations, as
  // libpmemobj's flags name it.
  PMEMoid allocate(std::size_t size, std::uint64_t kind = 0) {
    begin();
    const PMEMoid oid = pmemobj_tx_xalloc(size, 0, POBJ_XALLOC_NO_ABORT | kind);
    if (OID_IS_NULL(oid)) no_room(size);
    return oid;
  }
  // The same for many: a quarter cheaper, but whoever writes the memory has to flush it
  // (pmemobj_flush) before commit().
  PMEMoid reserve(std::size_t size, std::uint64_t kind = 0) {
    begin();
    const PMEMoid oid = pmemobj_xreserve(pool_, &reserved_.emplace_back(), size, 0, kind);
    if (!OID_IS_NULL(oid)) {
      offsets_.push_back(oid.off);
      return oid;
    }
    reserved_.pop_back();
    no_room(size);
  }
  // So many reservations are to come.
  void expect(std::size_t count) {
    reserved_.reserve(count);
    offsets_.reserve(count);
  }
  void release(PMEMoid oid) {
    begin();
    // libpmemobj must not be asked to free what it has not allocated yet.
    for (std::size_t i = 0; i < reserved_.size(); ++i) {
      if (offsets_[i] != oid.off) continue;
      // Not before the end: the range may have been added, and memory that is in two ranges makes
      // libpmemobj abort.
      dropped_.push_back(reserved_[i]);
      reserved_[i] = reserved_.back();
      offsets_[i] = offsets_.back();
      reserved_.pop_back();
      offsets_.pop_back();
      return;
    }
    if (pmemobj_tx_xfree(oid, POBJ_XFREE_NO_ABORT) != 0) fail("free in");
  }
  void commit() {
    if (!begun_) return;
    if (!reserved_.empty()) {
      const auto count = reserved_.size();
      if (pmemobj_tx_xpublish(reserved_.data(), count, POBJ_XPUBLISH_NO_ABORT) != 0) {
        fail("publish the allocations of");
      }
      reserved_.clear();
    }
    pmemobj_tx_commit();
    const bool committed = pmemobj_tx_stage() == TX_STAGE_ONCOMMIT;
    const int error = pmemobj_tx_end();
    invariant(committed && error == 0, "a transaction did not commit");
  }

 private:
  void cancel(std::vector<pobj_action>& actions) {
    if (!actions.empty()) pmemobj_cancel(pool_, actions.data(), actions.size());
    actions.clear();
  }
  void begin() {
    if (begun_) return;
    invariant(pmemobj_tx_stage() == TX_STAGE_NONE, "a transaction inside a transaction");
    // The parameter list ends with TX_PARAM_NONE; NULL jump buffer: errors come back as codes.
    if (pmemobj_tx_begin(pool_, nullptr, TX_PARAM_NONE) != 0) {
      pmemobj_tx_end();
      fail("begin");
    }
    begun_ = true;
    pmemobj_tx_set_failure_behavior(POBJ_TX_FAILURE_RETURN);
  }
  [[noreturn]] static void no_room(std::size_t size) {
    throw Error(ErrorKind::kStorageFull,
                "no room for " + std::to_string(size) + " bytes in the pool: " +
                    pmemobj_errormsg() + ". `mpaxos grow` makes a replica's pool larger while it "
                    "does not run, and packs closely what is in it");
  }
  [[noreturn]] static void fail(const char* what) {
    throw Error(ErrorKind::kStorageFull,
                std::string("cannot ") + what + " a transaction: " + pmemobj_errormsg());
  }

  PMEMobjpool* pool_;
  Journal* journal_;
  std::vector<pobj_action> reserved_;   // allocations that commit() makes
  std::vector<std::uint64_t> offsets_;  // where each of them is
  std::vector<pobj_action> dropped_;    // those that were released again
  bool begun_ = false;
};

}  // namespace mpaxos
