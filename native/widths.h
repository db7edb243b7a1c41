// Code that is compiled for several widths of vectors; which one runs is decided when the program starts.
//
// The results are the same bits on every machine: integers are exact, every operation on floats is rounded alone (the
// build forbids fused multiply-adds), and sums keep their order.
#pragma once

#define MONOBEAM_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define MONOBEAM_WIDTHS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MONOBEAM_WIDTHS
#endif
