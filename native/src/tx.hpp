// A libpmemobj transaction as an object. The macros of libpmemobj use setjmp and skip destructors;
// this uses the calls beneath them. See libpmemobj's manual page pmemobj_tx_begin(3).
#pragma once

#include <libpmemobj.h>

#include <string>

#include "error.hpp"

namespace mpaxos {

// Begins in the constructor; unless commit() returned, the destructor aborts: all changes of
// added ranges are undone. Never nested, never held across a return to Python.
class Transaction {
 public:
  explicit Transaction(PMEMobjpool* pool) {
    invariant(pmemobj_tx_stage() == TX_STAGE_NONE, "a transaction inside a transaction");
    // The parameter list ends with TX_PARAM_NONE; NULL jump buffer: errors come back as codes.
    if (pmemobj_tx_begin(pool, nullptr, TX_PARAM_NONE) != 0) {
      pmemobj_tx_end();
      fail("begin");
    }
    pmemobj_tx_set_failure_behavior(POBJ_TX_FAILURE_RETURN);
  }
  ~Transaction() {
    if (pmemobj_tx_stage() == TX_STAGE_WORK) pmemobj_tx_abort(ECANCELED);
    if (pmemobj_tx_stage() != TX_STAGE_NONE) pmemobj_tx_end();
  }
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  // The old contents of [data, data + size) are restored if this transaction does not commit.
  void add(void* data, std::size_t size) {
    if (pmemobj_tx_xadd_range_direct(data, size, POBJ_XADD_NO_ABORT) != 0) fail("add a range to");
  }
  // For memory whose old contents nobody needs (fresh or unreachable): flushed at commit only.
  void add_fresh(void* data, std::size_t size) {
    const auto flags = POBJ_XADD_NO_ABORT | POBJ_XADD_NO_SNAPSHOT;
    if (pmemobj_tx_xadd_range_direct(data, size, flags) != 0) fail("add a range to");
  }
  // Uninitialised memory; its flush at commit is included.
  PMEMoid allocate(std::size_t size) {
    const PMEMoid oid = pmemobj_tx_xalloc(size, 0, POBJ_XALLOC_NO_ABORT);
    if (OID_IS_NULL(oid)) {
      throw Error(ErrorKind::kStorageFull,
                  "no room for " + std::to_string(size) + " bytes in the pool: " +
                      pmemobj_errormsg());
    }
    return oid;
  }
  void release(PMEMoid oid) {
    if (pmemobj_tx_xfree(oid, POBJ_XFREE_NO_ABORT) != 0) fail("free in");
  }
  void commit() {
    pmemobj_tx_commit();
    const bool committed = pmemobj_tx_stage() == TX_STAGE_ONCOMMIT;
    const int error = pmemobj_tx_end();
    invariant(committed && error == 0, "a transaction did not commit");
  }

 private:
  [[noreturn]] static void fail(const char* what) {
    throw Error(ErrorKind::kStorageFull,
                std::string("cannot ") + what + " a transaction: " + pmemobj_errormsg());
  }
};

}  // namespace mpaxos
