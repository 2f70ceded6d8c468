/* Where counting begins and ends, in a program that runs under callgrind; elsewhere these do nothing. */
#include <valgrind/callgrind.h>

/* Count from here on; what went before was not counted, and so ran ten times as fast. */
void begin(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

/* Write down what was counted, under a name, and count no more. */
void end(const char *name) {
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}
