// The few lines the C++ tests need: named tests, checks that go on, random numbers with a fixed seed.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*run)();
};
std::vector<Test>& tests();
void fail(const char* file, int line, const std::string& what);

struct Register {
  Register(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

#define TEST(name)                                    \
  static void name();                                 \
  static const check::Register register_##name(#name, name); \
  static void name()
#define CHECK(...) \
  if (!(__VA_ARGS__)) check::fail(__FILE__, __LINE__, #__VA_ARGS__)
// What must throw, and a word of its message.
#define CHECK_THROWS(expression, word)                                                                     \
  try {                                                                                                    \
    expression;                                                                                            \
    check::fail(__FILE__, __LINE__, #expression " throws nothing");                                        \
  } catch (const std::exception& error) {                                                                  \
    if (!std::strstr(error.what(), word)) check::fail(__FILE__, __LINE__, std::string("says ") + error.what()); \
  }

class Random {
 public:
  explicit Random(uint32_t seed) : bits_(seed) {}
  float number() { return float(bits_() % 20001) / 10000.0f - 1.0f; }  // -1..1
  int below(int n) { return int(bits_() % uint32_t(n)); }
  std::vector<float> numbers(size_t count) {
    std::vector<float> out(count);
    for (float& x : out) x = number();
    return out;
  }

 private:
  std::mt19937 bits_;
};

// Equal bits, or both NaN.
inline bool same(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], 4) != 0 && !(a[i] != a[i] && b[i] != b[i])) return false;
  return true;
}

}  // namespace check
