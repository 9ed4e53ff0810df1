// The functions of libpmem and of the C library that decide what is durable, put before the real
// ones by LD_PRELOAD. libpmemobj and the extension call them through the dynamic linker, so nothing
// in the product knows of this.
#include <dlfcn.h>
#include <libpmem.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>

#include "recorder.hpp"

namespace {

using mpaxos::crash::Recorder;

// The next definition of the function called `name` behind this one.
template <typename Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

Recorder& recorder() { return Recorder::instance(); }

void wrote(const void* target, std::size_t length, unsigned flags) {
  if (flags & PMEM_F_MEM_NOFLUSH) return;
  recorder().flush(target, length);
  if (!(flags & PMEM_F_MEM_NODRAIN)) recorder().fence();
}

}  // namespace

// Each calls the real one first, by name, once resolved.
#define REAL(name) static auto* const next = real<decltype(name)>(#name)

extern "C" {

void pmem_flush(const void* address, size_t length) {
  REAL(pmem_flush);
  next(address, length);
  recorder().flush(address, length);
}

void pmem_deep_flush(const void* address, size_t length) {
  REAL(pmem_deep_flush);
  next(address, length);
  recorder().flush(address, length);
}

void pmem_drain(void) {
  REAL(pmem_drain);
  next();
  recorder().fence();
}

int pmem_deep_drain(const void* address, size_t length) {
  REAL(pmem_deep_drain);
  const int result = next(address, length);
  recorder().fence();
  return result;
}

void pmem_persist(const void* address, size_t length) {
  REAL(pmem_persist);
  next(address, length);
  recorder().flush(address, length);
  recorder().fence();
}

int pmem_deep_persist(const void* address, size_t length) {
  REAL(pmem_deep_persist);
  const int result = next(address, length);
  recorder().flush(address, length);
  recorder().fence();
  return result;
}

int pmem_msync(const void* address, size_t length) {
  REAL(pmem_msync);
  const int result = next(address, length);
  recorder().flush(address, length);
  recorder().fence();
  return result;
}

void* pmem_memcpy(void* target, const void* source, size_t length, unsigned flags) {
  REAL(pmem_memcpy);
  next(target, source, length, flags);
  wrote(target, length, flags);
  return target;
}

void* pmem_memmove(void* target, const void* source, size_t length, unsigned flags) {
  REAL(pmem_memmove);
  next(target, source, length, flags);
  wrote(target, length, flags);
  return target;
}

void* pmem_memset(void* target, int byte, size_t length, unsigned flags) {
  REAL(pmem_memset);
  next(target, byte, length, flags);
  wrote(target, length, flags);
  return target;
}

void* pmem_memcpy_persist(void* target, const void* source, size_t length) {
  return pmem_memcpy(target, source, length, 0);
}

void* pmem_memcpy_nodrain(void* target, const void* source, size_t length) {
  return pmem_memcpy(target, source, length, PMEM_F_MEM_NODRAIN);
}

void* pmem_memmove_persist(void* target, const void* source, size_t length) {
  return pmem_memmove(target, source, length, 0);
}

void* pmem_memmove_nodrain(void* target, const void* source, size_t length) {
  return pmem_memmove(target, source, length, PMEM_F_MEM_NODRAIN);
}

void* pmem_memset_persist(void* target, int byte, size_t length) {
  return pmem_memset(target, byte, length, 0);
}

void* pmem_memset_nodrain(void* target, int byte, size_t length) {
  return pmem_memset(target, byte, length, PMEM_F_MEM_NODRAIN);
}

void* mmap(void* hint, size_t length, int protection, int flags, int fd, off_t offset) noexcept {
  REAL(mmap);
  void* address = next(hint, length, protection, flags, fd, offset);
  if (address != MAP_FAILED && fd >= 0 && (flags & MAP_TYPE) != MAP_PRIVATE) {
    recorder().mapped(fd, address, length, offset);
  }
  return address;
}

int munmap(void* address, size_t length) noexcept {
  REAL(munmap);
  const int result = next(address, length);
  if (result == 0) recorder().unmapped(address, length);
  return result;
}

int fsync(int fd) {
  REAL(fsync);
  const int result = next(fd);
  if (result == 0) recorder().synced(fd);
  return result;
}

int rename(const char* from, const char* to) noexcept {
  REAL(rename);
  const int result = next(from, to);
  if (result == 0) recorder().renamed(from, to);
  return result;
}

// ------------------------------------------------------------- what tests/crash calls

// Watches the pool file `path`, there or yet to be created; with a trace, until crash_stop().
void crash_watch(const char* path, const char* trace) { recorder().watch(path, trace); }

// Returns -1 when something could not be recorded.
int crash_stop(void) {
  recorder().stop();
  return recorder().failed() ? -1 : 0;
}

void crash_mark(unsigned number) { recorder().mark(number); }

}  // extern "C"
