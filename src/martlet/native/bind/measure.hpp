// Binds what measures the machine.
#pragma once
#include <nanobind/nanobind.h>

namespace martlet {

void bind_measure(nanobind::module_& m);

}  // namespace martlet
