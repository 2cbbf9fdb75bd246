#include "tools/signals.h"

#include <csignal>
#include <initializer_list>

namespace tenfold {
namespace {

// The only state a signal handler may share with the program.
volatile std::sig_atomic_t interrupt_count = 0;
volatile std::sig_atomic_t termination = 0;

extern "C" void on_signal(int signal) {
  if (signal == SIGINT) {
    interrupt_count = interrupt_count + 1;
  } else {
    termination = 1;
  }
}

// Without SA_RESTART: a read of the terminal that a signal interrupts returns.
void catch_signals(std::initializer_list<int> signals) {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  for (const int signal : signals) {
    struct sigaction before = {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);  // as nohup wants it
  }
}

}  // namespace

void catch_interrupts() { catch_signals({SIGINT}); }
void catch_termination() { catch_signals({SIGTERM, SIGHUP}); }
int interrupts() noexcept { return interrupt_count; }
void clear_interrupts() noexcept { interrupt_count = 0; }
bool stop_requested() noexcept { return interrupt_count > 0 || termination != 0; }

}  // namespace tenfold
