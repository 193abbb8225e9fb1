#include "bind/bound.hpp"
#include "bind/measure.hpp"
#include "measure/measure.hpp"
#include "simd/cpu.hpp"

namespace martlet {

void bind_measure(nb::module_& m) {
  m.def("largest_cache_bytes", &largest_cache_bytes);
  m.def("measure_read", [](size_t num_bytes, int num_threads, int repeats) {
    Rate rate;
    {
      Unlocked unlocked;
      rate = measure_read(num_bytes, num_threads, repeats);
    }
    return nb::make_tuple(rate.best, rate.median);
  }, "num_bytes"_a, "num_threads"_a, "repeats"_a);
  m.def("measure_peaks", [](const std::string& isa, int num_threads, int repeats, double seconds) {
    const std::string name = find_kernels(isa).name;  // refuses a set that does not run here
    std::vector<Peak> peaks;
    {
      Unlocked unlocked;
      peaks = measure_peaks(name, num_threads, repeats, seconds);
    }
    std::vector<nb::tuple> out;
    for (const Peak& peak : peaks)
      out.push_back(nb::make_tuple(peak.operand, peak.how, peak.operations.best, peak.operations.median));
    return out;
  }, "isa"_a, "num_threads"_a, "repeats"_a, "seconds"_a);
}

}  // namespace martlet
