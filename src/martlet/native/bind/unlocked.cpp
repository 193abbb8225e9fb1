// Leaving and taking the interpreter lock, and nobody left outside when the interpreter ends.
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "bind/bound.hpp"

namespace {

std::atomic<bool> g_is_closed{false};
std::atomic<int> g_num_outside{0};
unsigned long g_closer = 0;  // the thread that ends the interpreter

void start_again() { g_num_outside = 0; }  // in a forked process, where the others are not

}  // namespace

Unlocked::Unlocked() {
  // with the lock held, so that `close` sees either the number or an error
  if (g_is_closed) {
    // other threads end without a word, as they would have a moment later
    PyErr_SetString(PyThread_get_thread_ident() == g_closer ? PyExc_RuntimeError : PyExc_SystemExit,
                    "the interpreter is ending");
    throw nb::python_error();
  }
  ++g_num_outside;
  state_ = PyEval_SaveThread();
}

Unlocked::~Unlocked() {
  PyEval_RestoreThread(state_);
  --g_num_outside;
}

void bind_unlocked(nb::module_& m) {
  pthread_atfork(nullptr, nullptr, start_again);
  m.def("close", [] {
    g_closer = PyThread_get_thread_ident();
    g_is_closed = true;
    while (g_num_outside) {
      PyThreadState* state = PyEval_SaveThread();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      PyEval_RestoreThread(state);
    }
  }, "Lets nobody leave the interpreter lock any more, and waits for who has.");
}
