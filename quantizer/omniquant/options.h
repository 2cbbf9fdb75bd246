#pragma once
// How OmniQuant trains; see learn.h.

namespace tenfold {

struct LearnOptions {
  int epochs = 10;
  double rate = 2e-3;  // of grids, in units of a grid's scale; falls to 0 along a straight line
  double scale_rate = 2e-3;  // of the logarithms of channel scales
  bool scales = true;        // LET
};

}  // namespace tenfold
