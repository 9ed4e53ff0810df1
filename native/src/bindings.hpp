// Each part of the extension binds itself; module.cpp puts them together.
#pragma once

#include <nanobind/nanobind.h>

namespace mpaxos {

void bind_values(nanobind::module_& m);   // Batch, ReplySet, checksums, constants
void bind_plane(nanobind::module_& m);    // Plane, events
void bind_storage(nanobind::module_& m);  // Pool
void bind_engine(nanobind::module_& m);   // Engine
void bind_overlay(nanobind::module_& m);  // Overlay, Table, Items, Methods
void bind_image(nanobind::module_& m);    // ImageSource, ImageTarget
void bind_wal(nanobind::module_& m);      // Wal
void bind_steady(nanobind::module_& m);   // Steady
void bind_hand_over(nanobind::module_& m);  // HandOver

}  // namespace mpaxos
