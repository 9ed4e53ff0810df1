"""The storage code broken on purpose: the crash-point check must notice each way.

A mutant is a replacement of a text that occurs exactly once in a source file of the extension. The
one file is compiled, and linked with the objects of the build that is there already, into an
extension of its own; the product has no switches for this.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.crash.given import probe
from tests.crash.runner import Options, Outcome, examine
from tests.crash.shim import ROOT, environment

SOURCES = ROOT / "native" / "src"

BUDGET = 3000
"""Images within which a mutant must be caught: less than a workload gets in `make test`."""


@dataclass(frozen=True)
class Mutant:
    """`old` in `file` becomes `new`; `workload` is the one that must show it."""

    name: str
    file: str
    old: str
    new: str
    workload: str
    always: bool = False
    """Whether `make test` tries it; `make crash` tries all."""


MUTANTS = [
    Mutant(
        "the log's data is not fenced before the tail is published",
        "log.cpp",
        "  pmemobj_drain(pool_);\n  tail_ = position;",
        "  tail_ = position;",
        "ring",
        always=True,
    ),
    Mutant(
        "a record's batch is not flushed",
        "log.cpp",
        "pmemobj_memcpy(pool_, target + kUnit, bytes.data(), bytes.size(), PMEMOBJ_F_MEM_NODRAIN);",
        "std::memcpy(target + kUnit, bytes.data(), bytes.size());",
        "ring",
        always=True,
    ),
    Mutant(
        "a record's header is not flushed",
        "log.cpp",
        "pmemobj_memcpy(pool_, target, &header, sizeof header, PMEMOBJ_F_MEM_NODRAIN);",
        "std::memcpy(target, &header, sizeof header);",
        "ring",
    ),
    Mutant(
        "a skip record is not flushed",
        "log.cpp",
        "pmemobj_memcpy(pool_, at(position), &header, sizeof header, PMEMOBJ_F_MEM_NODRAIN);",
        "std::memcpy(at(position), &header, sizeof header);",
        "ring",
    ),
    Mutant(
        "an item that is moved is not flushed",
        "pack.cpp",
        "oid = tx_->allocate(size, kind);",
        "oid = tx_->reserve(size, kind);",
        "packing",
        always=True,
    ),
    Mutant(
        "an item is released before the pointer to its copy is durable",
        "pack.cpp",
        "  tree.redirect(*tx_, place, oid.off | tag);\n",
        "  tx_->commit();\n"
        "  tx_.reset();\n"
        "  {\n"
        "    PMEMoid old = pmemobj_oid(base_ + offset);\n"
        "    pmemobj_free(&old);\n"
        "  }\n"
        "  tx_.emplace(pool_.handle());\n"
        "  tree.redirect(*tx_, place, oid.off | tag);\n"
        "  (void)tx_;\n"
        "  before -= size;\n"
        "  moved_ += size;\n"
        "  return;\n",
        "packing",
    ),
    Mutant(
        "the tail is published before the records are written",
        "log.cpp",
        "  auto position = tail_;\n  for (const auto& record : records) {\n    const auto units",
        "  auto ahead = tail_;\n"
        "  for (const auto& record : records) ahead += needed(ahead, record);\n"
        "  publish(root_.tail, ahead);\n"
        "  auto position = tail_;\n  for (const auto& record : records) {\n    const auto units",
        "promises",
        always=True,
    ),
    Mutant(
        "positions are stored, not persisted",
        "log.cpp",
        "pmemobj_persist(pool_, &word, sizeof word);",
        "(void)pool_;",
        "promises",
    ),
    Mutant(
        "positions are flushed without a fence",
        "log.cpp",
        "pmemobj_persist(pool_, &word, sizeof word);",
        "pmemobj_flush(pool_, &word, sizeof word);",
        "promises",
        always=True,
    ),
    Mutant(
        "the head moves before the truncation is published",
        "log.cpp",
        "  publish(root_.truncated, truncated_);\n  auto head = head_;",
        "  auto head = head_;",
        "ring",
        always=True,
    ),
    Mutant(
        "the head moves in memory only: the ring is reused too early",
        "log.cpp",
        "  publish(root_.head, head_);\n",
        "",
        "ring",
    ),
    Mutant(
        "the head moves past records that are still needed",
        "log.cpp",
        "    if (span.slot > truncated_ && known != index_.end() &&",
        "    if (span.slot > truncated_ + 1 && known != index_.end() &&",
        "ring",
    ),
    Mutant(
        "the digest of a record is verified nowhere",
        "log.cpp",
        '#include "checksum.hpp"\n',
        '#include "checksum.hpp"\n#define digest64(...) (header.digest)\n',
        "ring",
    ),
    Mutant(
        "the checksum of a record's header is not verified",
        "log.cpp",
        "  if (header.crc != header_crc(header)) corrupt(",
        "  if (header.length > capacity()) corrupt(",
        "ring",
    ),
    Mutant(
        "the checksum of the promise is not verified",
        "file_pool.cpp",
        "if (cell.crc != crc_upto(&cell, offsetof(PromiseCell, crc)) ||\n"
        "      cell.counter != promise_counter_) {",
        "if (cell.counter != promise_counter_) {",
        "promises",
        always=True,
    ),
    Mutant(
        "a promise is written over the valid one",
        "file_pool.cpp",
        "auto& cell = root_->promises[(promise_counter_ + 1) % 2];\n  const auto fresh",
        "auto& cell = root_->promises[promise_counter_ % 2];\n  const auto fresh",
        "promises",
    ),
    Mutant(
        "the promise's cell is not flushed",
        "file_pool.cpp",
        "pmemobj_memcpy_persist(pool_, &cell, &fresh, sizeof fresh);",
        "std::memcpy(&cell, &fresh, sizeof fresh);",
        "promises",
    ),
    Mutant(
        "the promise is switched before its cell is written",
        "file_pool.cpp",
        "  pmemobj_memcpy_persist(pool_, &cell, &fresh, sizeof fresh);\n"
        "  __atomic_store_n(&root_->promise_word.bits, make_word(fresh.counter).bits, "
        "__ATOMIC_RELEASE);\n"
        "  pmemobj_persist(pool_, &root_->promise_word, sizeof(Word));\n",
        "  __atomic_store_n(&root_->promise_word.bits, make_word(fresh.counter).bits, "
        "__ATOMIC_RELEASE);\n"
        "  pmemobj_persist(pool_, &root_->promise_word, sizeof(Word));\n"
        "  pmemobj_memcpy_persist(pool_, &cell, &fresh, sizeof fresh);\n",
        "promises",
        always=True,
    ),
    Mutant(
        "the promise is switched without a flush",
        "file_pool.cpp",
        "  pmemobj_persist(pool_, &root_->promise_word, sizeof(Word));\n",
        "",
        "promises",
    ),
    Mutant(
        "records are written before the promise",
        "file_pool.cpp",
        "  if (promise) write_promise(*promise);\n  log_->append(records);",
        "  log_->append(records);\n  if (promise) write_promise(*promise);",
        "promises",
        always=True,
    ),
    Mutant(
        "a pool is renamed before its contents are synced",
        "file_pool.cpp",
        "    sync_path(temporary, O_RDWR);\n",
        "",
        "create",
        always=True,
    ),
    Mutant(
        "a pool's name is not synced",
        "file_pool.cpp",
        "    sync_path(directory, O_RDONLY | O_DIRECTORY);\n",
        "",
        "create",
        always=True,
    ),
    Mutant(
        "a pool is made under its final name",
        "file_pool.cpp",
        'const auto temporary = spec.path + ".new";',
        "const auto temporary = spec.path;",
        "create",
    ),
    Mutant(
        "the journal is not durable before values are overwritten",
        "journal.cpp",
        "  pmemobj_drain(pool_);\n}\n\nvoid Journal::clear",
        "}\n\nvoid Journal::clear",
        "values",
        always=True,
    ),
    Mutant(
        "the journal is not flushed",
        "journal.cpp",
        "  pmemobj_memcpy(pool_, area_, buffer_.data(), used_,\n"
        "                 PMEMOBJ_F_MEM_NONTEMPORAL | PMEMOBJ_F_MEM_NODRAIN);\n",
        "  std::memcpy(area_, buffer_.data(), used_);\n",
        "values",
    ),
    Mutant(
        "the journal's checksum is not verified",
        "journal.cpp",
        "header.check == check_of(header, area_ + sizeof header)",
        "true",
        "values",
        always=True,
    ),
    Mutant(
        "the journal is not undone after a crash",
        "file_pool.cpp",
        "    journal_->recover(applied);\n",
        "    (void)applied;\n",
        "values",
        always=True,
    ),
    Mutant(
        "what the journal undoes is not flushed",
        "journal.cpp",
        "    pmemobj_memcpy(pool_, target, at, entry.length, PMEMOBJ_F_MEM_NODRAIN);\n",
        "    std::memcpy(target, at, entry.length);\n",
        "values",
    ),
    Mutant(
        "the journal remembers too short a range of a value",
        "kv.cpp",
        " journal.remember(leaf, leaf->size());\n",
        " journal.remember(leaf, sizeof(Leaf));\n",
        "values",
        always=True,
    ),
    Mutant(
        "the journal is cleared before the position is durable",
        "engine.cpp",
        "  pmemobj_drain(pool_.handle());\n  if (tx.begun()) {",
        "  pool_.journal().clear();\n  pmemobj_drain(pool_.handle());\n  if (tx.begun()) {",
        "values",
    ),
    Mutant(
        "an overwritten value is not flushed",
        "tree.cpp",
        "  tx.written(leaf, leaf->size());\n",
        "",
        "values",
        always=True,
    ),
    Mutant(
        "a stored reply is not flushed",
        "sessions.cpp",
        "  tx.written(&cell, sizeof cell);\n",
        "",
        "sessions",
        always=True,
    ),
    Mutant(
        "a long reply stored over another is not flushed",
        "sessions.cpp",
        "    tx.written(blob, payload.size());\n",
        "",
        "sessions",
    ),
    Mutant(
        "what was overwritten last is not flushed",
        "engine.cpp",
        "  pool_.journal().flush_written();\n",
        "",
        "values",
        always=True,
    ),
    Mutant(
        "of what was overwritten one of two ranges is not flushed",
        "journal.cpp",
        "    flush(recent_);\n    recent_ = lines;\n",
        "    recent_ = lines;\n",
        "mixed",
    ),
    Mutant(
        "the applied position moves before what it stands for is durable",
        "engine.cpp",
        "  pmemobj_drain(pool_.handle());\n  if (tx.begun()) {",
        "  if (tx.begun()) {",
        "values",
        always=True,
    ),
    Mutant(
        "the applied position is not durable before the journal is cleared",
        "engine.cpp",
        "    pmemobj_persist(pool_.handle(), &applied, sizeof applied);\n",
        "    pmemobj_flush(pool_.handle(), &applied, sizeof applied);\n",
        "values",
    ),
    Mutant(
        "the journal is not cleared in the transaction that allocates",
        "engine.cpp",
        "    journal_slot = 0;\n",
        "",
        "values",
    ),
    Mutant(
        "the applied position is not in the transaction",
        "engine.cpp",
        "    tx.snapshot(&applied, sizeof applied);\n",
        "",
        "sessions",
        always=True,
    ),
    Mutant(
        "changes of a Python machine and its position are in two transactions",
        "engine.cpp",
        "  std::size_t next = 0;\n  return commit(tx, used,",
        "  tx.commit();\n  Transaction second(pool_.handle());\n"
        "  std::size_t next = 0;\n  return commit(second, used,",
        "machine",
        always=True,
    ),
    Mutant(
        "the pointer to a new branch is not in the transaction",
        "tree.cpp",
        "  tx.add(place.owner, sizeof *place.owner);\n",
        "",
        "values",
        always=True,
    ),
    Mutant(
        "the pointer past a removed item is not in the transaction",
        "tree.cpp",
        "    redirect(tx, parent, place.owner->child[side]);\n",
        "    *parent.slot = place.owner->child[side];\n",
        "values",
    ),
    Mutant(
        "the count of items is not in the transaction",
        "tree.cpp",
        "  tx.add(&root_->tree, kRootChanges);\n  root_->count",
        "  root_->count",
        "values",
    ),
    Mutant(
        "a removed branch is not freed",
        "tree.cpp",
        "    tx.release(oid_of(pool_->handle(), place.owner));\n",
        "",
        "values",
    ),
    Mutant(
        "a replaced item is freed at once",
        "tree.cpp",
        "    tx.release(oid_of(pool_->handle(), found));\n    return;",
        "    auto gone = oid_of(pool_->handle(), found);\n    pmemobj_free(&gone);\n    return;",
        "values",
    ),
    Mutant(
        "a new session's entry in the table is not in the transaction",
        "sessions.cpp",
        "  tx.add(&entry, sizeof entry);\n  entry = offset;",
        "  entry = offset;",
        "sessions",
    ),
    Mutant(
        "a closed session's long replies are not freed",
        "sessions.cpp",
        "    if (blob != 0) tx.release(pmemobj_oid(base + blob));\n",
        "    (void)blob;\n",
        "sessions",
        always=True,
    ),
    Mutant(
        "a session that stores no reply is not in the transaction",
        "sessions.cpp",
        "  tx.add(&object, sizeof object);\n",
        "  (void)tx;\n",
        "sessions",
    ),
    Mutant(
        "the checksum of a branch is not verified",
        "tree.cpp",
        "  return digest64({reinterpret_cast<const char*>(&branch), offsetof(Branch, check)});",
        "  return branch.check;",
        "values",
    ),
    Mutant(
        "the checksum of a stored reply is not verified",
        "sessions.cpp",
        "  if (cell.crc != crc_of(cell, payload)) damaged(",
        "  if (cell.length > pool_.size()) damaged(",
        "sessions",
    ),
    Mutant(
        "how far an installation is, is not part of the chunk's transaction",
        "image_target.cpp",
        "  tx.add(state_, sizeof *state_);",
        "",
        "install",
        always=True,
    ),
    Mutant(
        "an item of an image is not flushed",
        "tree_append.cpp",
        "    pmemobj_memcpy(pool_->handle(), tree_.base() + offset, item.data(), item.size(),\n"
        "                   PMEMOBJ_F_MEM_NODRAIN);\n",
        "    std::memcpy(tree_.base() + offset, item.data(), item.size());\n",
        "install",
        always=True,
    ),
    Mutant(
        "a branch above items of an image is not flushed",
        "tree_append.cpp",
        "  for (const auto* branch : sealed_) pmemobj_flush(pool_->handle(), branch, "
        "sizeof *branch);\n",
        "",
        "install",
    ),
    Mutant(
        "the pointer to a chunk's first branch is not in the transaction",
        "tree_append.cpp",
        "    tx.add(step.branch, sizeof *step.branch);\n",
        "",
        "install",
        always=True,
    ),
    Mutant(
        "the count of a chunk's items is not in the transaction",
        "tree_append.cpp",
        "    tx.add(&root_->tree, sizeof *root_ - offsetof(ContainerRoot, tree));\n",
        "",
        "install",
    ),
    Mutant(
        "the applied position is not part of an image's last transaction",
        "image_target.cpp",
        "  tx.add(&applied, sizeof applied);",
        "",
        "install",
    ),
    Mutant(
        "a pool becomes an ordinary one outside of an image's last transaction",
        "file_pool.cpp",
        "  tx.add(&root_->engine.installing, sizeof(Word));",
        "",
        "install",
    ),
    Mutant(
        "the log's beginning is not part of an image's last transaction",
        "file_pool.cpp",
        "  tx.add(&root_->truncated, sizeof root_->truncated);",
        "",
        "install",
    ),
]
"""All of them; each in the workload that has to show it."""


def build_directory() -> Path:
    """Where the extension was built last. Raises RuntimeError when it was not."""
    found = sorted(
        ROOT.glob("build/*/_native*.so"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    for path in found:
        cache = path.parent / "CMakeCache.txt"
        # An instrumented build (make asan) needs a run-time library that tests do not load.
        if cache.exists() and "MPAXOS_SANITIZE:STRING=\n" in cache.read_text():
            return path.parent
    raise RuntimeError("no build of the extension in build/: run scripts/setup.sh")


def ninja(build: Path, *arguments: str) -> str:
    """What ninja, which comes with the build requirements, says about the build."""
    program = Path(sys.executable).with_name("ninja")
    command = str(program) if program.exists() else "ninja"
    return subprocess.run(
        [command, "-C", str(build), "-t", *arguments], capture_output=True, text=True, check=True
    ).stdout


def mutated(mutant: Mutant) -> str:
    """The source file with the replacement. Raises ValueError when it does not fit."""
    source = (SOURCES / mutant.file).read_text()
    if source.count(mutant.old) != 1:
        raise ValueError(
            f"mutant {mutant.name!r}: its text occurs {source.count(mutant.old)} times in "
            f"{mutant.file}, not once: bring tests/crash/mutants.py up to date"
        )
    return source.replace(mutant.old, mutant.new)


def compile_mutant(mutant: Mutant, directory: Path) -> Path:
    """An extension with the mutant, in `directory`. Raises ValueError, CalledProcessError."""
    build = build_directory()
    source = directory / mutant.file
    source.write_text(mutated(mutant))
    original = str(SOURCES / mutant.file)
    entries = json.loads(ninja(build, "compdb"))
    (entry,) = (e for e in entries if e["file"] == original and "_native.dir" in e["output"])
    made = directory / "mutant.o"
    words = shlex.split(entry["command"])
    for option, value in (("-o", str(made)), ("-c", str(source)), ("-MF", f"{made}.d")):
        words[words.index(option) + 1] = value
    # Not as the product is optimised: this is about order and flushes, and shall be quick.
    words = [word for word in words if word != "-g"] + ["-O1", "-fno-lto", f"-I{SOURCES}"]
    subprocess.run(words, cwd=build, check=True, capture_output=True)
    target = directory / next(build.glob("_native*.so")).name
    link = ninja(build, "commands", target.name).splitlines()[-1]
    link = link.removeprefix(": && ").removesuffix(" && :")
    linked = [str(made) if word == entry["output"] else word for word in shlex.split(link)]
    linked[linked.index("-o") + 1] = str(target)
    subprocess.run([*linked, "-fno-lto"], cwd=build, check=True, capture_output=True)
    return target


@dataclass(frozen=True)
class Verdict:
    """Whether a mutant was caught, and how."""

    mutant: Mutant
    outcome: Outcome
    seconds: float

    @property
    def caught(self) -> bool:
        """Whether some image, or the workload without a crash, failed."""
        return bool(self.outcome.failures)

    @property
    def how(self) -> str:
        """The first failure in short."""
        if not self.caught:
            return "not caught"
        failure = self.outcome.failures[0]
        return f"{failure.case.split()[0]}: {failure.text.splitlines()[-1][:160]}"


def try_mutant(mutant: Mutant, directory: Path, seed: int = 0) -> Verdict:
    """Build it and examine its workload until something fails; leaves files in `directory`. Raises
    RuntimeError when it cannot be loaded."""
    began = time.monotonic()
    native = compile_mutant(mutant, directory)
    probe(native, environment(native))
    options = Options(budget=BUDGET, jobs=1, native=native, max_failures=1)
    (outcome,) = examine([mutant.workload], seed, options)
    return Verdict(mutant, outcome, time.monotonic() - began)
