#pragma once
// Every packed format of formats.def.

#include "kernels/formats/q1.h"
#include "kernels/formats/q2.h"
#include "kernels/formats/q3.h"
#include "kernels/formats/q4.h"
#include "kernels/formats/q8.h"
