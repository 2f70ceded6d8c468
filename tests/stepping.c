/* Steps of a traced process, on x86-64: see stepping.py. */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>

enum { STEPPED, CHANGED, LEFT, ENDED };

/* Shared memory, and how it was when it was last looked at. */
struct watched {
    const uint8_t *now;
    uint8_t *before;
    size_t size;
};

/* One instruction. */
static int one_step(pid_t pid, struct user_regs_struct *registers, int *status)
{
    if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) || waitpid(pid, status, 0) != pid) return ENDED;
    if (!WIFSTOPPED(*status) || WSTOPSIG(*status) != SIGTRAP) return ENDED;
    return ptrace(PTRACE_GETREGS, pid, NULL, registers) ? ENDED : STEPPED;
}

/* Step until the next instruction is one of [low, high). Returns where it is, 0 if the process ended before, or has
   done so many steps that it will never come to one. */
uint64_t step_into(pid_t pid, uint64_t low, uint64_t high, long most, uint64_t *frame, int *status)
{
    struct user_regs_struct registers;
    do {
        if (!most--) return 0;
        if (one_step(pid, &registers, status) != STEPPED) return 0;
    } while (registers.rip < low || registers.rip >= high);
    *frame = registers.rsp;
    return registers.rip;
}

/* Step through the call that `frame` is the stack of: as many instructions as `most`, fewer where one of them changes
   what is watched or leaves the call. Returns why it stopped; *steps counts them. */
int step_on(pid_t pid, uint64_t frame, long most, const struct watched *watched, int n, long *steps, uint64_t *at,
            int *status)
{
    struct user_regs_struct registers;
    for (*steps = 0; *steps < most;) {
        int outcome = one_step(pid, &registers, status), changed = 0;
        if (outcome != STEPPED) return outcome;
        ++*steps;
        *at = registers.rip;
        for (int i = 0; i < n; i++) {
            if (memcmp(watched[i].now, watched[i].before, watched[i].size)) {
                memcpy(watched[i].before, watched[i].now, watched[i].size);
                changed = 1;
            }
        }
        if (registers.rsp > frame) return LEFT;
        if (changed) return CHANGED;
    }
    return STEPPED;
}

static int poke(pid_t pid, uint64_t at, uint8_t octet, uint8_t *before)
{
    long word;
    errno = 0;
    word = ptrace(PTRACE_PEEKTEXT, pid, at, NULL);
    if (errno) return -1;
    *before = (uint8_t)word;
    return (int)ptrace(PTRACE_POKETEXT, pid, at, (word & ~0xFFL) | octet);
}

/* Let the process run until it is about to execute the instruction at `at`, or that at `bound`, but one at least.
   Returns where it is, 0 if it ended before. */
uint64_t run_to(pid_t pid, uint64_t at, uint64_t bound, uint64_t *stack, int *status)
{
    struct user_regs_struct registers;
    uint8_t at_octet, bound_octet, breakpoint;
    if (one_step(pid, &registers, status) != STEPPED) return 0;
    if (registers.rip != at && registers.rip != bound) {
        if (poke(pid, at, 0xCC, &at_octet) || poke(pid, bound, 0xCC, &bound_octet)) return 0;
        if (ptrace(PTRACE_CONT, pid, NULL, NULL)) return 0;
        if (waitpid(pid, status, 0) != pid || !WIFSTOPPED(*status) || WSTOPSIG(*status) != SIGTRAP) return 0;
        if (poke(pid, bound, bound_octet, &breakpoint) || poke(pid, at, at_octet, &breakpoint)) return 0;
        if (ptrace(PTRACE_GETREGS, pid, NULL, &registers)) return 0;
        registers.rip--;
        if (ptrace(PTRACE_SETREGS, pid, NULL, &registers)) return 0;
    }
    *stack = registers.rsp;
    return registers.rip;
}
