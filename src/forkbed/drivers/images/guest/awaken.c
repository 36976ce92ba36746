/* awaken SECONDS NANOSECONDS: set the clock to that time since 1970, mix standard input (1 to 512 bytes) into the
 * kernel's randomness, and have it draw anew at once.
 *
 * For guests that go on from a memory which others go on from too. One program for both and without a C library,
 * since starting programs is what takes long in a guest that is emulated. Ends with 0, or with the number of the
 * error that the kernel gave for the randomness, and 128 more if the clock could not be set. */

#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/random.h>
#include <linux/time_types.h>

#define CLOCK_REALTIME 0
#define CLOCK_FAILED 128

static struct {
    int entropy_bits;
    int size;
    unsigned char bytes[512];
} pool; /* as struct rand_pool_info */

static long call(long number, long first, long second, long third)
{
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(first), "S"(second), "d"(third)
                     : "rcx", "r11", "memory");
    return result;
}

static long number_in(const char *text)
{
    long number = 0;

    if (!*text)
        return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || number > 0xfffffffffffffff)
            return -1;
        number = 10 * number + (*text - '0');
    }
    return number;
}

static long set_clock(const char *seconds, const char *nanoseconds)
{
    struct __kernel_timespec now = {number_in(seconds), number_in(nanoseconds)};

    if (now.tv_sec < 0 || now.tv_nsec < 0)
        return -EINVAL;
    return call(__NR_clock_settime, CLOCK_REALTIME, (long)&now, 0);
}

static long reseed(void)
{
    long got, device;

    do {
        got = call(__NR_read, 0, (long)(pool.bytes + pool.size), (long)sizeof pool.bytes - pool.size);
        if (got < 0)
            return got;
        pool.size += (int)got;
    } while (got);
    if (!pool.size)
        return -ENODATA;
    pool.entropy_bits = 8 * pool.size;
    device = call(__NR_open, (long)"/dev/urandom", O_RDWR, 0);
    if (device < 0)
        return device;
    got = call(__NR_ioctl, device, RNDADDENTROPY, (long)&pool);
    return got < 0 ? got : call(__NR_ioctl, device, RNDRESEEDCRNG, 0);
}

/* The kernel leaves the number of words on the stack, and above it where they are. */
__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");

__attribute__((used, noreturn)) static void begin(long *stack)
{
    char **words = (char **)(stack + 1);
    long clock = stack[0] == 3 ? set_clock(words[1], words[2]) : -EINVAL;

    call(__NR_exit, -reseed() + (clock < 0 ? CLOCK_FAILED : 0), 0, 0);
    __builtin_unreachable();
}
