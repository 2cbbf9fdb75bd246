#pragma once
// Signals as flags that loops look at. A signal that is not caught ends the process at once, which
// is right while nothing is being written.

namespace tenfold {

void catch_interrupts();    // Ctrl-C
void catch_termination();   // SIGTERM and SIGHUP: for commands that have files to clean up
int interrupts() noexcept;  // Ctrl-C's since the last clear_interrupts()
void clear_interrupts() noexcept;
bool stop_requested() noexcept;  // any of them

}  // namespace tenfold
