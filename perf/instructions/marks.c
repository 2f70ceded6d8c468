/* Where counting begins and ends, in a program that runs under callgrind; elsewhere these do nothing. */
#include <valgrind/callgrind.h>

/* Count from here on; what went before ran without instruments, and so ten times as fast. */
void begin(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

/* Write down under a name what was counted, and count no more. */
void end(const char *name) {
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}
