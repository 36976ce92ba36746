/* reseed: mix standard input (1 to 512 bytes) into the kernel's randomness, and have it draw anew at once.
 *
 * For guests that go on from a memory which others go on from too. Without a C library, so that it stays small.
 * Ends with 0, or with the number of the error that the kernel gave. */

#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/random.h>

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

void _start(void)
{
    call(__NR_exit, -reseed(), 0, 0);
    __builtin_unreachable();
}
