// Runs all tests, or those whose names hold the first argument.
#include "check.hpp"

namespace check {
namespace {
int failures = 0;
}
std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}
void fail(const char* file, int line, const std::string& what) {
  if (++failures <= 20) std::printf("%s:%d: %s\n", file, line, what.c_str());
}
}  // namespace check

int main(int argc, char** argv) {
  int count = 0;
  for (const check::Test& test : check::tests()) {
    if (argc > 1 && !std::strstr(test.name, argv[1])) continue;
    ++count;
    int before = check::failures;
    test.run();
    std::printf("%s %s\n", check::failures == before ? "ok  " : "FAIL", test.name);
    std::fflush(stdout);
  }
  std::printf("%d tests, %d failures\n", count, check::failures);
  return check::failures || !count ? 1 : 0;
}
