#pragma once
#include <stdint.h>

// How many times this process has asked for memory: malloc, calloc, realloc and the aligned ones. 0 in a build with a
// sanitizer, whose own allocator cannot be counted.
uint64_t allocations_total(void);

// Does nothing. Callgrind writes down what was counted so far whenever it is called (--dump-before).
void measurement_boundary(void);
