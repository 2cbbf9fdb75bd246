#pragma once
// cpp-httplib as Debian builds its library: the macros decide the layout of its classes.

#ifndef CPPHTTPLIB_OPENSSL_SUPPORT
#error \
    "build with the flags of pkg-config cpp-httplib, which say what Debian's library was built with"
#endif
#include <httplib.h>
